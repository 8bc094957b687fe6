"""`doctor --profile`: a short job on two nodes of a site, with one worker on each, and what its tasks found."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.scheduler import living
from launch.slurm import commands
from launch.slurm.batch import executor, refusal
from launch.slurm.environment import completed
from launch.slurm.probe import probe
from launch.slurm.profile import Options, load_profile
from launch.slurm.site_check import named, site_warnings, usable_folder, variable_notes
from tensloradist.errors import UserError
from tensloradist.files import make_folder
from tensloradist.terminal import terminal

MOST_CLOCK_SECONDS = 1.0  # a larger difference between clocks is noted
PATIENCE_SECONDS = 900.0  # for the job to begin and to end
JOB_MINUTES = 8  # longer than the job waits for a GPU that hangs
PROBE_GB = 8.0  # of memory for the task and its processes, or less if the profile has less


def check_site(profile_name: str, option_set: str | None, root: Path) -> bool:
    """Submit the job, wait for it, and print what it found; returns whether all checks passed.

    The job has the resources of one worker on each of two nodes, enough to test a GPU, the file system and the network
    between nodes. Slurm is only asked whether it would accept the profile's own job (sbatch --test-only).

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
    limits = commands.limits()
    partitions = [limits.partitions[one] for one in named(completed(options).partition)] if limits else []
    nodes = min(2, max((partition.nodes or 2 for partition in partitions), default=2))
    make_folder(root)
    folder = (root / f".doctor-{uuid.uuid4().hex[:8]}").absolute()
    folder.mkdir()
    overrides: dict[str, Any] = {"nodes": nodes, "ntasks_per_node": 1, "time": JOB_MINUTES, "signal_delay_s": 30}
    made = executor(profile.name, one_worker(options), folder / "submitit", "tensloradist-doctor", **overrides)
    try:
        job = made.submit(probe, str(folder), str(root.absolute()))
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        shutil.rmtree(folder)
        raise UserError(
            f"profile {profile.name}, option set {name}: Slurm refused the job ({refusal(error)})"
        ) from error
    with terminal(stderr=True).status(f"job {job.job_id} on {nodes} nodes of {profile.name}/{name}"):
        words = _wait(folder, job.job_id, nodes)
    would_not = executor(profile.name, options, folder / "whole", "tensloradist-doctor").would_refuse()
    mark, whole = ("FAILED", f"Slurm would refuse ({would_not})") if would_not else ("ok", "Slurm would take")
    text = f"{mark:7} {whole} a job as {profile.name}/{name} asks for it"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    held = _say(console, words, nodes, options.gpus_per_node) and would_not is None
    if held:
        shutil.rmtree(folder)
    else:
        console.print(f"The job's output is in {folder}", highlight=False, soft_wrap=True)
    return held


def one_worker(options: Options) -> Options:
    """The option set reduced to one worker's GPU, cores and share of the memory."""
    memory = options.memory_gb
    if memory is not None:
        memory = min(memory, max(PROBE_GB, memory / options.workers))
    least = {"gpus_per_node": min(1, options.gpus_per_node), "workers_per_gpu": 1, "workers_per_node": 1}
    return options.model_copy(update={**least, "memory_gb": memory})


def _wait(folder: Path, job: str, tasks: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    gone = 0
    while time.monotonic() < deadline:
        paths = sorted(folder.glob("probe-*.json"))
        if len(paths) == tasks:
            return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        queued = living([job], commands.queue)
        gone = gone + 1 if queued is not None and not queued else 0
        if gone > 3:  # its files have had time to appear
            break
        time.sleep(1)
    else:
        commands.cancel([job])
        raise UserError(f"job {job} did not end within {PATIENCE_SECONDS / 60:g} minutes and was cancelled; see squeue")
    raise UserError(f"job {job} ended before every node had reported; see {folder}/submitit")


def _say(console: Console, words: list[dict[str, Any]], nodes: int, gpus_per_node: int) -> bool:
    """Print the findings; returns whether all checks passed.

    Args:
        gpus_per_node: what the profile asks for; if it asks for GPUs and none is found, a check fails.
    """
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
            for gpu in gpus["checked"]:
                line(gpu["error"] is None, f"{host}: {gpu['gpu']}: {gpu['error'] or gpu['found']}")
            if not gpus["checked"]:
                asked = f", although the profile asks for gpus_per_node: {gpus_per_node}" if gpus_per_node else ""
                line(not asked, f"{host}: no GPU{asked} (CUDA_VISIBLE_DEVICES={gpus['visible'] or 'not set'})")
        if "compilation" in word:
            mark, finding = word["compilation"]
            console.print(f"{mark:7} {host}: {finding}", markup=False, highlight=False, soft_wrap=True)
        if "file_system" in word:
            line(True, f"{host}: file system: {word['file_system']}")
    if nodes < 2:
        console.print("The job ran on one node, so nothing between nodes was checked", highlight=False)
    links = [word.get("first_link") for word in words]
    line(links.count(True) == 1, f"of {nodes} links to one name at the same moment, {links.count(True)} succeeded")
    clocks = [word["clock"] for word in words if "clock" in word]
    apart = max(clocks, default=0.0) - min(clocks, default=0.0)
    # No decision depends on it: all times in one attempt's records are one node's.
    note = (
        ""
        if apart <= MOST_CLOCK_SECONDS
        else ": times of different nodes cannot be compared; claims do not depend on them"
    )
    line(True, f"clocks differ by {apart:.1f} s{note}")
    if all("all_reduce" in word for word in words):
        line(True, f"all-reduce over {nodes} nodes: {words[0]['all_reduce']}")
    versions = [word.get("versions") for word in words]
    same = all(version == versions[0] for version in versions)
    shown = ", ".join(f"{name} {version}" for name, version in (versions[0] or {}).items())
    line(same, f"versions: {shown}" if same else f"versions differ between nodes: {versions}")
    return held
