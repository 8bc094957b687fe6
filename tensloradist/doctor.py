"""Checks of one machine: versions, every GPU, compilers, what the results folder's file system does, an all-reduce."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tensloradist.environment import inherited
from tensloradist.errors import UserError
from tensloradist.gpu_check import check_gpus

_ALL_REDUCE = """
import os, datetime, torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
assert value.item() == 3.0, value
dist.destroy_process_group()
"""


def check_machine(root: Path) -> bool:
    """Print a line for each check of this machine and of a results folder's file system; whether all held."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("versions", _versions),
        ("CPU threads", _threads),
        ("file system", lambda: check_file_system(root)),
        ("imports without tensloradist", _plain_imports),
        ("all-reduce, 2 processes", _all_reduce),
    ]
    held = True
    for name, check in checks:
        try:
            mark, said = "ok", check()
        except (AssertionError, OSError, ImportError, RuntimeError, UserError, subprocess.SubprocessError) as error:
            mark, said = "FAILED", f"{type(error).__name__}: {error}"
            held = False
        _print(mark, f"{name}: {said}")
    return _check_devices() and held


def _print(mark: str, text: str) -> None:
    print(f"{mark:7} {text}", flush=True)


def _check_devices() -> bool:
    """Print a line for each GPU, and one on compilation; whether every GPU computes as it should."""
    try:
        gpus = check_gpus()
    except (OSError, UserError) as error:
        _print("FAILED", f"devices: {error}")
        return False
    for gpu in gpus:
        _print("FAILED" if gpu.error else "ok", f"{gpu.gpu}: {gpu.error or gpu.found}")
    if not gpus:
        _print("ok", "devices: no GPU; runs use the CPU")
    mark, said = compilation("cuda" if gpus else "cpu")
    _print(mark, said)
    return not any(gpu.error for gpu in gpus)


def compilation(device_type: str) -> tuple[str, str]:
    """A mark and a line on what torch.compile needs, which a run may do without: '?' where it is not there."""
    from tensloradist.training.compilers import check_compiler

    try:
        return "ok", f"compilation: {check_compiler(device_type)}"
    except UserError as error:
        return "?", f"compilation: {error}"


def _versions() -> str:
    from tensloradist.training.provenance import versions

    return ", ".join(f"{name} {version}" for name, version in versions().items())


def _plain_imports() -> str:
    """Import timm and a Trainer of transformers in a process that imports nothing of ours by itself."""
    imports = "import timm; from transformers import Trainer"
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise ImportError(
            f"{imports}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}; where torchvision was built for "
            f"another torch, `{sys.executable} -m tensloradist.fit_torchvision` makes the environment import it"
        )
    return "timm, and transformers with its image classes"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} of {len(os.sched_getaffinity(0))} available cores"


def check_file_system(root: Path) -> str:
    """What claims and results rely on: exclusive links that count, atomic replacement, fsync."""
    from tensloradist.files import link_once, write_replacing

    folder = root / f".doctor-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        source, other, target = folder / "a", folder / "b", folder / "linked"
        write_replacing(source, "a")
        write_replacing(other, "b")
        assert link_once(source, target), "a first link did not succeed"
        assert not link_once(other, target), "a second link to the same name succeeded"
        assert target.read_text(encoding="utf-8") == "a", "a link's content changed"
        began = time.perf_counter()
        for index in range(20):
            write_replacing(source, str(index))
        each = (time.perf_counter() - began) / 20
        assert target.read_text(encoding="utf-8") == "a", "rename over one link changed the other"
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return f"{root}: links are exclusive, renames replace; a synced write takes {1000 * each:.1f} ms"


def _all_reduce() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ALL_REDUCE],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **inherited(os.environ),
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.strip().splitlines()[-1:]
    return f"gloo, {time.perf_counter() - began:.1f} s with start-up"
