"""Where a result comes from: versions, hardware, commit, host; and the peaks of memory. Recorded, never identity."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

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


@lru_cache(maxsize=1)
def _of_this_process() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional extra that is not installed has no version to record
    return {
        "versions": versions,
        "hardware": {
            "cpu": _cpu_model(),
            "cpu_count": os.cpu_count(),
            "machine": platform.machine(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "gpu_count": torch.cuda.device_count(),
            "gpu_uuids": [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())],
        },
        "code": {"commit": _commit(), "sources": sources_hash()},
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "command": sys.argv,
    }


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, hardware and code of this process, with what the caller adds (precision, device, …).

    `workers_per_gpu` above 1 says that other runs shared its GPU: its times compare with nobody's.
    """
    sharing = int(os.environ.get("TENSLORADIST_WORKERS_PER_GPU", "1"))
    return {**_of_this_process(), "threads": torch.get_num_threads(), "workers_per_gpu": sharing, **more}


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """A hash of this package's own source files: tells whether code was edited, in a checkout or not."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _commit() -> str | None:
    """The checkout's commit, with '+changes' where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "-c", f"safe.directory={root}"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "") if head.returncode == 0 else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform's own word below
    return platform.processor() or platform.machine()


def reset_peak_memory() -> None:
    """Start counting peaks anew: CUDA's statistics, and the process's high-water mark (Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clear = Path("/proc/self/clear_refs")
    if clear.exists() and os.access(clear, os.W_OK):
        clear.write_text("5")


def peak_memory() -> tuple[int | None, int | None]:
    """(host bytes: the resident set's high-water mark, device bytes: CUDA's largest allocation); None if unknown."""
    host = None
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                host = int(line.split()[1]) * 1024
    return host, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
