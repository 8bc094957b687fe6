"""Groups of processes that train together on this machine, over gloo."""

import json
import multiprocessing
import os
import socket
import time
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from tensloradist.identity import resolve
from tensloradist.results.attempts import begin_attempt
from tensloradist.results.layout import RunFolder
from tensloradist.spec import RunSpec

SERVER = multiprocessing.get_context("forkserver")
TIMEOUT = 900  # seconds that a group may take: on an idle machine none takes a tenth of it


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
    """How a group ended: exit codes, the results of each job, and standard errors, by process."""

    codes: list[int]
    results: list[list[dict]]
    errors: list[str] = field(repr=False)


def _serve():
    """Start the server that processes are forked from, with everything imported, unless it runs."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(paths)}):  # it is given no other
        SERVER.set_forkserver_preload(["ranks"])
        forkserver.ensure_running()


def _start(jobs, out, environment):
    import ranks

    ranks.main(jobs, out, environment)


def run_group(folder, jobs, processes=2, timeout=TIMEOUT, only=None):
    """Run jobs, one after another, in one group of processes; a job is {run, folder, stop?}.

    Args:
        only: wait for the process of this rank alone, and kill the others then.
    """
    _serve()
    folder.mkdir(parents=True, exist_ok=True)
    listed = [
        {"spec": job["run"].model_dump(mode="json"), "folder": str(job["folder"]), "stop": job.get("stop")}
        for job in jobs
    ]
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    files = [folder / str(rank) for rank in range(processes)]
    group = [
        SERVER.Process(target=_start, args=(listed, str(file), {**world, "RANK": file.name, "LOCAL_RANK": file.name}))
        for file in files
    ]
    deadline = time.monotonic() + timeout
    try:
        for process in group:
            process.start()
        for rank, process in enumerate(group):
            if only in (None, rank):
                process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in group]
    finally:
        for process in group:
            process.kill()
    results = [[json.loads(line) for line in file.read_text().splitlines()] if file.exists() else [] for file in files]
    return Ended(codes, results, [(folder / f"{rank}.log").read_text(errors="replace") for rank in range(processes)])


def losses(folder):
    """The epochs' mean training losses that an attempt has recorded."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train_loss"] for line in lines if "train_loss" in line]
