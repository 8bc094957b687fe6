"""Groups of processes that train together on this machine, over gloo."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tensloradist.identity import resolve
from tensloradist.results.attempts import begin_attempt
from tensloradist.results.layout import RunFolder
from tensloradist.spec import RunSpec

RANKS = Path(__file__).parent / "ranks.py"
TIMEOUT = 300  # seconds that a group may take: nothing here takes a third of it on an idle machine


def spec(compute=None, **changes):
    """A run on the embedded digits; its compute section is for one CPU thread a process."""
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits", "train_examples": 150},
        "adapter": {"grouping": "qkv_depth", "ranks": 2},
        "optimizer": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2},
        "compute": {"device": "cpu", "threads": 1, "checkpoint_seconds": None, **(compute or {})},
        **changes,
    }
    return resolve(RunSpec.model_validate(data))


def attempt(root, run, number=1, checkpoint=None):
    """A folder for the run's attempt of that number, which goes on from the checkpoint."""
    folder = RunFolder(root, run.run_id)
    folder.attempt(number).mkdir(parents=True)
    begin_attempt(folder, number, run, checkpoint)
    return folder.attempt(number)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Ended:
    """What became of a group: exit codes by rank, each job's words by rank, and the standard errors."""

    codes: list[int]
    said: list[list[dict]]
    errors: list[str] = field(repr=False)


def run_group(folder, jobs, processes=2, timeout=TIMEOUT):
    """Run jobs, one after another, in one group of processes; a job is {run, folder, told?}."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [
        {
            "spec": job["run"].model_dump(mode="json"),
            "folder": str(job["folder"]),
            "port": str(free_port()),
            "told": job.get("told"),
        }
        for job in jobs
    ]
    (folder / "jobs.json").write_text(json.dumps(listed))
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    base = {**os.environ, **world, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RANKS), str(folder / "jobs.json"), str(folder / "said")]
    group = []
    for rank in range(processes):
        environment = {**base, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = (folder / f"rank-{rank}.log").open("w")
        group.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    try:
        codes = [process.wait(timeout) for process in group]
    finally:
        for process in group:
            process.kill()
    files = [folder / f"said.{rank}" for rank in range(processes)]
    said = [[json.loads(line) for line in file.read_text().splitlines()] if file.exists() else [] for file in files]
    return Ended(codes, said, [(folder / f"rank-{rank}.log").read_text() for rank in range(processes)])


def losses(folder):
    """The epochs' mean training losses that an attempt has recorded."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train_loss"] for line in lines if "train_loss" in line]
