"""Where a result comes from: versions, hardware, commit, host, peaks of memory. Recorded, not part of its identity."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tensloradist.environment import numeric_settings
from tensloradist.plugins import loaded_code
from tensloradist.results.schema import PeakMemory
from tensloradist.sources import commit, module_hash, sources_hash
from tensloradist.training.numerics import changed_switches, float32_precisions
from tensloradist.users import username

if TYPE_CHECKING:
    from accelerate import Accelerator

    from tensloradist.spec import RunSpec

PACKAGES = (
    "tensloradist",
    "torch",
    "transformers",
    "timm",
    "datasets",
    "accelerate",
    "deepspeed",
    "safetensors",
    "numpy",
)
_SOURCES, _LAUNCH = sources_hash(), module_hash("launch")  # as imported, not as edited later


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on, found without touching a GPU."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional extra that is not installed has no version to record
    return found


@lru_cache(maxsize=1)
def _of_this_process() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "hardware": {
            "cpu": _cpu_model(),
            "cpu_count": os.cpu_count(),
            "machine": platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "gpu_count": torch.cuda.device_count(),
            "gpu_uuids": [str(gpu.uuid) for gpu in gpus],
            "gpu_bytes": [gpu.total_memory for gpu in gpus],
        },
        "code": {"commit": commit(), "sources": _SOURCES, "launch": _LAUNCH},
        "host": socket.gethostname(),
        "user": username(),
        "command": sys.argv,
    }


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, hardware, settings and code of this process, with what the caller adds (precision, device, …).

    With `workers_per_gpu` above 1 other runs shared the GPU, so the times are not comparable. `environment` has the
    variables that can change a number and torch's switches that are not at their defaults; `float32` says how float32
    is computed.
    """
    sharing = int(os.environ.get("TENSLORADIST_WORKERS_PER_GPU", "1"))
    settings = {"environment": {**numeric_settings(), **changed_switches()}, "float32": float32_precisions()}
    now = {"threads": torch.get_num_threads(), "workers_per_gpu": sharing, **settings}
    return {**_of_this_process(), **now, **more}


def provenance_of(spec: RunSpec, accelerator: Accelerator, **more: Any) -> dict[str, Any]:
    """`provenance` with how and where the run is trained."""
    how = {name: getattr(spec.compute, name) for name in ("strategy", "offload", "activation_checkpointing")}
    here = {"device": str(accelerator.device), "processes": accelerator.num_processes}
    found = provenance(precision=spec.precision, **here, **how, **more)
    return {**found, "code": {**found["code"], "plugins": loaded_code(spec.plugins)}}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform's answer below
    return platform.processor() or platform.machine()


def available_memory() -> int | None:
    """Bytes that this node's processes can still allocate: the least that the kernel and the control groups leave.

    A limit may be set on a group above the process's own, such as a Slurm job's. None if unknown.
    """
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, place = line.split(":", 2)
            if not controllers:
                found += _left_by(Path("/sys/fs/cgroup"), place, "memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
                found += _left_by(Path("/sys/fs/cgroup/memory"), place, *names)
    except OSError:
        pass  # not Linux: no limits to read
    return min(found, default=None)


def _left_by(root: Path, place: str, limit: str, used: str) -> list[int]:
    """What each control group with a limit leaves, from the process's own up to the root."""
    left = []
    group = root / place.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        if (folder / limit).is_file():
            most = (folder / limit).read_text(encoding="utf-8").strip()
            if most != "max":
                left.append(int(most) - int((folder / used).read_text(encoding="utf-8")))
    return left


def reset_peak_memory() -> None:
    """Reset the peaks: CUDA's statistics, and the process's high-water mark (Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clear = Path("/proc/self/clear_refs")
    if clear.exists() and os.access(clear, os.W_OK):
        clear.write_text("5", encoding="utf-8")


def peak_memory() -> tuple[int | None, int | None]:
    """(host bytes: the resident set's high-water mark, device bytes: CUDA's largest allocation); None if unknown."""
    host = None
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                host = int(line.split()[1]) * 1024
    return host, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def peak_memory_of_all(accelerator: Accelerator) -> PeakMemory:
    """Bytes of the first process, and of every process if there are several."""
    host, device = peak_memory()
    if accelerator.num_processes == 1:
        return PeakMemory(host_bytes=host, device_bytes=device)
    mine = torch.tensor([host or 0, device or 0], device=accelerator.device)
    hosts, devices = accelerator.gather(mine.unsqueeze(0)).T.tolist()
    return PeakMemory(
        host_bytes=host,
        device_bytes=device,
        host_bytes_by_process=tuple(hosts) if host is not None else (),
        device_bytes_by_process=tuple(devices) if device is not None else (),
    )
