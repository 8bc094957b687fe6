"""`doctor --profile`: a one-minute job on two nodes of a site, and what its tasks found there."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from rich.console import Console

from launch import scheduler
from launch.cluster import named, site_warnings, usable_folder, variable_notes
from launch.executor import executor, refusal
from launch.profile import load_profile
from launch.sbatch_environment import completed
from launch.site_probe import probe
from tensloradist.errors import UserError
from tensloradist.files import make_folder
from tensloradist.terminal import terminal

MOST_CLOCK_SECONDS = 1.0  # by which clocks may differ before it is worth a word
PATIENCE_SECONDS = 600.0  # for the job to begin and to end


def check_site(profile_name: str, option_set: str | None, root: Path) -> bool:
    """Submit the job, wait for it, print what it found; whether all checks held.

    Raises:
        UserError: no Slurm here, an unknown partition, a job that Slurm refuses or that never began.
    """
    import submitit

    usable_folder(root)
    console, profile = terminal(), load_profile(profile_name)
    sets = profile.chosen([option_set] if option_set else None)
    name, options = next(iter(sets.items()))
    for warning in [*site_warnings(profile, sets), *variable_notes(sets)]:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    limits = scheduler.limits()
    partitions = [limits.partitions[one] for one in named(completed(options).partition)] if limits else []
    nodes = min(2, max((partition.nodes or 2 for partition in partitions), default=2))
    make_folder(root)
    folder = (root / f".doctor-{uuid.uuid4().hex[:8]}").absolute()
    folder.mkdir()
    overrides: dict[str, Any] = {"nodes": nodes, "ntasks_per_node": 1, "time": 2, "signal_delay_s": 30}
    made = executor(profile.name, options, folder / "submitit", "tensloradist-doctor", **overrides)
    try:
        job = made.submit(probe, str(folder), str(root.absolute()))
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        shutil.rmtree(folder)
        raise UserError(
            f"profile {profile.name}, option set {name}: Slurm refused the job ({refusal(error)})"
        ) from error
    with terminal(stderr=True).status(f"job {job.job_id} on {nodes} nodes of {profile.name}/{name}"):
        words = _wait(folder, job.job_id, nodes)
    held = _say(console, words, nodes)
    if held:
        shutil.rmtree(folder)
    else:
        console.print(f"What the job said is in {folder}", highlight=False, soft_wrap=True)
    return held


def _wait(folder: Path, job: str, tasks: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    gone = 0
    while time.monotonic() < deadline:
        paths = sorted(folder.glob("probe-*.json"))
        if len(paths) == tasks:
            return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        living = scheduler.living([job])
        gone = gone + 1 if living is not None and not living else 0
        if gone > 3:  # its files had time to appear
            break
        time.sleep(1)
    else:
        scheduler.cancel([job])
        raise UserError(f"job {job} did not end within {PATIENCE_SECONDS / 60:g} minutes and was cancelled; see squeue")
    raise UserError(f"job {job} ended without a word from every node; see {folder}/submitit")


def _say(console: Console, words: list[dict[str, Any]], nodes: int) -> bool:
    """Print the findings; whether all is well."""
    held = True

    def line(good: bool, text: str) -> None:
        nonlocal held
        held = held and good
        console.print(f"{'ok' if good else 'FAILED':7} {text}", markup=False, highlight=False, soft_wrap=True)

    for word in words:
        host = word["host"]
        for error in word["errors"]:
            line(False, f"{host}: {error}")
        if "gpus" in word:
            gpus = word["gpus"]
            seen = "; ".join(gpus["devices"]) or "none that nvidia-smi names"
            line(True, f"{host}: GPUs: {seen} (CUDA_VISIBLE_DEVICES={gpus['visible'] or 'not set'})")
        if "file_system" in word:
            line(True, f"{host}: file system: {word['file_system']}")
    if nodes < 2:
        console.print("one node only: nothing was seen of two", highlight=False)
    links = [word.get("first_link") for word in words]
    line(links.count(True) == 1, f"of {nodes} links to one name at the same moment, {links.count(True)} succeeded")
    clocks = [word["clock"] for word in words if "clock" in word]
    apart = max(clocks, default=0.0) - min(clocks, default=0.0)
    # No decision rests on it: times in one attempt's records are all of one node.
    note = "" if apart <= MOST_CLOCK_SECONDS else ": times of different nodes do not compare; claims do not use them"
    line(True, f"clocks differ by {apart:.1f} s{note}")
    if all("all_reduce" in word for word in words):
        line(True, f"all-reduce over {nodes} nodes: {words[0]['all_reduce']}")
    versions = [word.get("versions") for word in words]
    same = all(version == versions[0] for version in versions)
    shown = ", ".join(f"{name} {version}" for name, version in (versions[0] or {}).items())
    line(same, f"versions: {shown}" if same else f"versions differ between nodes: {versions}")
    return held
