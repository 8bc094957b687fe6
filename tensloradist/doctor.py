"""Check one machine: versions, every GPU, compilers, the results folder's file system, an all-reduce."""

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
from tensloradist.ports import free_port

_ALL_REDUCE = """
import os, datetime, torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
assert value.item() == 3.0, value
dist.destroy_process_group()
"""


def check_machine(root: Path) -> bool:
    """Check this machine and a results folder's file system, with a line for each check; True if all pass."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("versions", _versions),
        ("CPU threads", _threads),
        ("file system", lambda: check_file_system(root)),
        ("imports without tensloradist", _plain_imports),
        ("all-reduce, 2 processes", _all_reduce),
    ]
    passed = True
    for name, check in checks:
        try:
            mark, output = "ok", check()
        except (AssertionError, OSError, ImportError, RuntimeError, UserError, subprocess.SubprocessError) as error:
            mark, output = "FAILED", f"{type(error).__name__}: {error}"
            passed = False
        _print(mark, f"{name}: {output}")
    return _check_devices() and passed


def _print(mark: str, text: str) -> None:
    print(f"{mark:7} {text}", flush=True)


def _check_devices() -> bool:
    """Print a line for each GPU and one on compilation; True if every GPU computes correctly."""
    try:
        gpus = check_gpus()
    except (OSError, UserError) as error:
        _print("FAILED", f"devices: {error}")
        return False
    for gpu in gpus:
        _print("FAILED" if gpu.error else "ok", f"{gpu.gpu}: {gpu.error or gpu.found}")
    if not gpus:
        _print("ok", "devices: no GPU; runs use the CPU")
    _print(*compilation("cuda" if gpus else "cpu"))
    return not any(gpu.error for gpu in gpus)


def compilation(device_type: str) -> tuple[str, str]:
    """A mark and a line on the compiler for torch.compile; '?' if it is missing, since runs work without it."""
    from tensloradist.training.compilers import check_compiler

    try:
        return "ok", f"compilation: {check_compiler(device_type)}"
    except UserError as error:
        return "?", f"compilation: {error}"


def _versions() -> str:
    from tensloradist.training.provenance import versions

    return ", ".join(f"{name} {version}" for name, version in versions().items())


def _plain_imports() -> str:
    """Import timm and transformers' Trainer in a process that does not import tensloradist."""
    imports = "import timm; from transformers import Trainer"
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise ImportError(
            f"{imports}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}; if torchvision was built for "
            f"another torch, run `{sys.executable} -m tensloradist.fit_torchvision`"
        )
    return "timm, and transformers with its image classes"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} of {len(os.sched_getaffinity(0))} available cores"


def check_file_system(root: Path) -> str:
    """Check what claims and results rely on: exclusive links with a link count, atomic replacement, fsync."""
    from tensloradist.files import link_once, write_replacing

    folder = root / f".doctor-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        source, other, target = folder / "a", folder / "b", folder / "linked"
        write_replacing(source, "a")
        write_replacing(other, "b")
        assert link_once(source, target), "a first link failed"
        assert not link_once(other, target), "a second link to the same name succeeded"
        assert target.read_text(encoding="utf-8") == "a", "a link's content changed"
        began = time.perf_counter()
        for index in range(20):
            write_replacing(source, str(index))
        each = (time.perf_counter() - began) / 20
        assert target.read_text(encoding="utf-8") == "a", "replacing one link changed the other"
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return f"{root}: links are exclusive, renames replace; a synced write takes {1000 * each:.1f} ms"


def _all_reduce() -> str:
    began = time.perf_counter()
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", _ALL_REDUCE]
    processes = [
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**inherited(os.environ), **place, "RANK": str(index)}
        )
        for index in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.strip().splitlines()[-1:]
    return f"gloo, {time.perf_counter() - began:.1f} s including start-up"
