"""The checks that a task of `doctor --profile` makes on its node, written as JSON into the job's folder."""

from __future__ import annotations

import datetime
import json
import math
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.slurm.rendezvous import Place
from tensloradist.doctor import check_file_system, compilation
from tensloradist.files import link_once, write_once, write_synced
from tensloradist.gpu_check import AT_ONCE, SECONDS, check_gpus
from tensloradist.gpus import visible_gpus

WAIT_SECONDS = 180.0  # for the other node's file: nvidia-smi may hang there, twice
_SOUND = "gpus"  # the name of the file on a task's GPUs, which is empty if all of them compute


def probe(folder: str, root: str) -> None:
    """Check this node; a check that raises is recorded as an error, so that every task leaves a report."""
    place = Place.here()
    found: dict[str, Any] = {"rank": place.rank, "host": socket.gethostname(), "errors": []}
    for name, look in (
        ("versions", lambda: _versions()),
        ("file_system", lambda: check_file_system(Path(root))),
        ("first_link", lambda: _link(Path(folder), place)),
        ("clock", lambda: _clock(Path(folder), place)),
        ("gpus", lambda: _gpus(Path(folder), place)),
        ("compilation", lambda: compilation("cuda" if found.get("gpus", {}).get("checked") else "cpu")),
        ("all_reduce", lambda: _all_reduce(Path(folder), place)),
    ):
        try:
            found[name] = look()
        except Exception as error:  # whatever goes wrong is what the doctor reports
            found["errors"].append(f"{name}: {type(error).__name__}: {error}")
    write_once(Path(folder) / f"probe-{place.rank}.json", json.dumps(found, indent=1) + "\n")


def _versions() -> dict[str, str]:
    from tensloradist.training.provenance import versions

    return versions()


def _gpus(folder: Path, place: Place) -> dict[str, Any]:
    """The results of the check of every GPU that Slurm gave this task, and how Slurm named the GPUs."""
    word = "a GPU does not compute"
    try:
        checked = check_gpus()
        word = word if any(gpu.error for gpu in checked) else ""
    finally:
        write_once(folder / f"{_SOUND}-{place.rank}", word)
    return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "checked": [asdict(gpu) for gpu in checked]}


def _meet(folder: Path, place: Place, name: str) -> None:
    """Wait for all tasks."""
    write_once(folder / f"{name}-{place.rank}", "")
    _await(folder, place, name, WAIT_SECONDS)


def _await(folder: Path, place: Place, name: str, seconds: float) -> list[str]:
    """The texts of all tasks' files of that name, once they are there."""
    deadline = time.monotonic() + seconds
    while len(paths := list(folder.glob(f"{name}-*"))) < place.tasks:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the other tasks' files did not appear within {seconds:g} s")
        time.sleep(0.02)
    return [path.read_text(encoding="utf-8") for path in paths]


def _link(folder: Path, place: Place) -> bool:
    """Whether this task's link came first; of all tasks' links at the same moment, exactly one must."""
    _meet(folder, place, "link")
    own = folder / f".own-{place.rank}"
    write_synced(own, str(place.rank))
    return link_once(own, folder / "linked")


def _clock(folder: Path, place: Place) -> float:
    """This node's clock at the same moment on all nodes, to about a tenth of a second."""
    _meet(folder, place, "clock")
    return time.time()


def _all_reduce(folder: Path, place: Place) -> str:
    """All-reduce over the nodes, if all GPUs compute: a GPU that hangs would hang its process, and all others."""
    rounds = math.ceil(max(1, len(visible_gpus())) / AT_ONCE)
    if any(_await(folder, place, _SOUND, rounds * SECONDS + WAIT_SECONDS)):
        raise RuntimeError("not tried, since a GPU does not compute as it should")
    import torch
    import torch.distributed as dist

    os.environ.update(place.environment(1))
    with_gpu = torch.cuda.is_available()
    backend = "nccl" if with_gpu else "gloo"
    began = time.perf_counter()
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=WAIT_SECONDS))
    try:
        device = torch.device("cuda", 0) if with_gpu else torch.device("cpu")
        value = torch.full((2**20,), float(dist.get_rank() + 1), device=device)
        dist.all_reduce(value)
        expected = place.tasks * (place.tasks + 1) / 2
        if float(value[0]) != expected:
            raise ArithmeticError(f"the sum is {float(value[0])}, not {expected}")
    finally:
        dist.destroy_process_group()
    return f"{backend}, {place.tasks} processes, {time.perf_counter() - began:.1f} s with the first connection"
