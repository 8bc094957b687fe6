"""A results folder with every kind of file that there is, and the ways in which each of them can be damaged."""

import ctypes
import json
import os
import random
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from synthetic import result_of

from launch.planning.plan import write_manifest
from launch.planning.sweep_file import load_sweep
from launch.records.job_arrays import Submitted
from launch.records.origin import Origin
from launch.records.submission import Submission
from launch.slurm.accepted import accepted_array
from launch.slurm.profile import Options
from tensloradist.files import write_once
from tensloradist.results.attempts import begin_attempt, end_attempt
from tensloradist.results.checkpoints import write_checkpoint
from tensloradist.results.claims import Owner
from tensloradist.results.execute import execute
from tensloradist.results.holds import hold
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import write_failure, write_spec
from tensloradist.results.schema import (
    AttemptEnd,
    Failure,
)

SWEEP = """
name: dented
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits, train_examples: 64}
methods: [lora, {tenslora: {grouping: att}}]
conditions: [{isorank: [2]}]
seeds: 3
optimizer: {epochs: 1, batch_size: 64, learning_rate: 1e-2}
compute: {device: cpu, threads: 1}
"""
KINDS = (
    "held.json",
    "finished adapter.json",
    "finished adapter.safetensors",
    "finished attempt.json",
    "finished classes.json",
    "finished end.json",
    "finished head.safetensors",
    "finished log.txt",
    "finished metrics.jsonl",
    "finished predictions.safetensors",
    "finished provenance.json",
    "finished attempt's result.json",
    "finished classes.json",
    "finished claim.0001",
    "finished heartbeat.0001",
    "finished released.0001",
    "finished result.json",
    "finished spec.json",
    "attempt.json",
    "COMPLETE",
    "state.json",
    "decision.json",
    "end.json",
    "failure.json",
    "log.txt",
    "metrics.jsonl",
    "claim.0002",
    "heartbeat.0002",
    "spec.json",
    "manifest",
    "latest",
    "accepted-0.json",
    "launch.json",
    "slurm.json",
    "submission-0.json",
    "worker-7_0.0.0.json",
)
STAMP = "20260101T000000-aaaaaa"


def trained(spec, attempt, progress, control):
    """In place of training: a result of that run."""
    return result_of(spec.run_id, attempt=int(attempt.name))


def make(folder, train=trained):
    """A sweep of six runs: two finished, one failed, one claimed elsewhere, one held, one not begun; its file."""
    file, root = folder / "sweep.yaml", folder / "results"
    file.write_text(SWEEP)
    sweep = load_sweep(str(file))
    manifest = write_manifest(sweep, root)
    first, second, failed, claimed, held, _ = sweep.runs
    for run in (first, second):
        assert execute(run.spec, root, train).status == "finished"
    for run, cause in ((failed, "bug"), (claimed, "preempted")):
        run_folder = RunFolder(root, run.run_id)
        run_folder.attempt(1).mkdir(parents=True)
        write_spec(run_folder, run.spec)
        begun = begin_attempt(run_folder, 1, run.spec, None)
        write_failure(run_folder.attempt(1), Failure(run_id=run.run_id, attempt=1, cause=cause, message="it broke"))
        end = AttemptEnd(run_id=run.run_id, attempt=1, ended=begun.started + 9, state="failed", cause=cause, steps=9)
        end_attempt(run_folder.attempt(1), end)
        decision = {"cause": cause, "action": "stop", "reason": "it broke", "micro_batch": None, "growth": None}
        write_once(run_folder.attempt(1) / "decision.json", json.dumps(decision))
        write_once(run_folder.attempt(1) / "log.txt", "2026 ERROR it broke\n")
        write_once(run_folder.attempt(1) / "metrics.jsonl", '{"step": 3, "steps": 9, "epoch": 1, "loss": 0.5}\n' * 2)
    here = RunFolder(root, claimed.run_id)
    owner = Owner("elsewhere", "boot", 1, "1", "ns", job="7_0", cluster="here")
    write_once(here.path / "claim.0002", json.dumps(asdict(owner)))
    write_once(here.path / "heartbeat.0002", "3")
    write_checkpoint(here.attempt(1), 5, {"step": 5}, lambda part: [])
    hold(RunFolder(root, held.run_id), "by hand")
    launch = root / "sweeps" / "dented" / "launches" / STAMP
    known = Submission(str(manifest), str(root), 1, options=Options().model_dump(mode="json"), tasks=2)
    write_once(launch / "submission-0.json", known.to_json())
    done = Submitted("site", "me", "host", 1.0, None, "", cluster="here")
    done.with_array(launch, accepted_array("7", 2, known)).write(launch)
    Origin.of(file, root).write(launch)
    word = {"state": "crashed", "host": "n1", "pid": 1, "code_changed": False, "error": "ImportError: no module"}
    write_once(launch / "worker-7_0.0.0.json", json.dumps(word))
    return file


def kinds(root):
    """One file of each kind -> its path within the results folder; of runs, those of one that has no result, too."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        run = path.relative_to(root).parts[1]
        over = (root / "runs" / run / "result.json").exists()
        name = "manifest" if path.parent.parent.name == "sweeps" and path.suffix == ".json" else path.name
        if name == "result.json" and "attempts" in path.parts:
            name = "attempt's result.json"
        found.setdefault(f"{'finished ' if over else ''}{name}", path.relative_to(root))
    return found


def retyped(value):
    """The same JSON with values of other types."""
    if isinstance(value, dict):
        return {key: retyped(part) for key, part in value.items()}
    return [value] if not isinstance(value, list) else {"items": value}


def damages(path):
    """Name -> what a file of this kind may contain instead; None: a folder in its place, or no right to read it."""
    content = path.read_bytes()
    noise = random.Random(0).randbytes(200)
    found = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "garbage": b"\xff\xfe" + noise,
        "zeros": bytes(64),
    }
    found |= {"null": b"null", "list": b"[1, 2]", "text": b'"x"', "nested": b"[" * 100_000}
    try:
        data = json.loads(content)
    except ValueError:
        data = None
    if isinstance(data, dict):
        key = "format_version" if path.name in ("adapter.json", "COMPLETE") else "schema_version"
        found["newer"] = json.dumps({**data, key: 2}).encode()
        found["a new field"] = json.dumps({**data, "lease": {"seconds": 3}}).encode()
        found["other types"] = json.dumps(retyped(data)).encode()
        found["no fields"] = b"{}"
    found |= {"folder": None}
    if os.getuid() != 0:
        found |= {"unreadable": None}
    return found


class Dented:
    """A copy of the folder in which one file is damaged; put right again at the end."""

    def __init__(self, original, folder):
        self.root, self._original = folder, original
        shutil.copytree(original, folder)

    def damage(self, place, how, content):
        path = self.root / place
        if how == "unreadable":
            path.chmod(0)
            return path
        path.unlink()
        if how == "folder":
            (path / "in the way").mkdir(parents=True)
        else:
            path.write_bytes(content)
        return path

    def restore(self):
        shutil.rmtree(self.root)
        shutil.copytree(self._original, self.root)


@contextmanager
def forbidden(path):
    """As a colleague's file or folder that this user may not enter; root, too, who else may everything."""
    libc, mode = ctypes.CDLL(None, use_errno=True), path.stat().st_mode
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    before = sets[0]
    sets[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    path.chmod(0)
    assert libc.capset(head, sets) == 0
    try:
        yield path
    finally:
        sets[0] = before
        assert libc.capset(head, sets) == 0
        path.chmod(mode)


def folder_of(root, place):
    """The run's id in a path, or None."""
    parts = Path(place).parts
    return parts[1] if parts[0] == "runs" else None


def remove(path):
    """Remove what a command may have written."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
