"""What a task of `doctor --profile` looks at on its node, and writes as JSON into the job's folder: one file a task."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from launch.board import Place
from tensloradist.doctor import check_file_system
from tensloradist.files import link_once, write_once, write_synced

WAIT_SECONDS = 60.0  # for the other node's word


def probe(folder: str, root: str) -> None:
    """Look at this node; what cannot be done is written down as an error, so that every task leaves its word."""
    place = Place.here()
    found: dict[str, Any] = {"rank": place.rank, "host": socket.gethostname(), "errors": []}
    for name, look in (
        ("versions", lambda: _versions()),
        ("gpus", _gpus),
        ("file_system", lambda: check_file_system(Path(root))),
        ("first_link", lambda: _link(Path(folder), place)),
        ("clock", lambda: _clock(Path(folder), place)),
        ("all_reduce", lambda: _all_reduce(place)),
    ):
        try:
            found[name] = look()
        except Exception as error:  # whatever goes wrong is what the doctor is asked for
            found["errors"].append(f"{name}: {type(error).__name__}: {error}")
    write_once(Path(folder) / f"probe-{place.rank}.json", json.dumps(found, indent=1) + "\n")


def _versions() -> dict[str, str]:
    from tensloradist.training.provenance import provenance

    versions: dict[str, str] = provenance()["versions"]
    return versions


def _gpus() -> dict[str, Any]:
    """Models and ids that nvidia-smi names, and what Slurm made visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None:
        return {"visible": visible, "devices": []}
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    return {"visible": visible, "devices": asked.stdout.splitlines()}


def _meet(folder: Path, place: Place, name: str) -> None:
    """Wait for all tasks."""
    write_once(folder / f"{name}-{place.rank}", "")
    deadline = time.monotonic() + WAIT_SECONDS
    while len(list(folder.glob(f"{name}-*"))) < place.tasks:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the other tasks' files did not appear within {WAIT_SECONDS:g} s")
        time.sleep(0.02)


def _link(folder: Path, place: Place) -> bool:
    """Whether this task's link was the first: of all tasks' at the same moment, exactly one is."""
    _meet(folder, place, "link")
    own = folder / f".own-{place.rank}"
    write_synced(own, str(place.rank))
    return link_once(own, folder / "linked")


def _clock(folder: Path, place: Place) -> float:
    """This node's clock at a moment that is the same everywhere, to a tenth of a second or so."""
    _meet(folder, place, "clock")
    return time.time()


def _all_reduce(place: Place) -> str:
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
