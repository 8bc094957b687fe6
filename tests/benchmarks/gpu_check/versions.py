"""Versions, and whether every card computes what the CPU computes. torch alone is enough."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpu_check.part import Check
from gpu_check.report import Row
from tensloradist.bounded import run_bounded
from tensloradist.gpus import why_torch_finds_none

LIBRARIES = ("accelerate", "deepspeed", "bitsandbytes", "transformers", "timm", "peft", "triton", "numpy", "pydantic")
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # of a product's largest element
SIZE = 512
CARD_SECONDS = 60.0  # for one card, with the import of torch
AT_ONCE = 8


def rows(check: Check) -> Iterator[Row]:
    figures = {"python": platform.python_version(), **_of_torch(), **{name: _version(name) for name in LIBRARIES}}
    yield check.judged("versions", True, ", ".join(f"{k} {v or 'absent'}" for k, v in figures.items()), **figures)
    if not check.on_gpu:
        yield _computes(check, "cpu")
        return
    if not torch.cuda.is_available():
        yield check.judged("devices", False, f"torch {torch.__version__} sees no CUDA device: {why_torch_finds_none()}")
        return
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield from threads.map(lambda card: of_card(check, card), cards)


def _of_torch() -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    return {
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "HIP": torch.version.hip,
        "driver": _driver(),
        "cuDNN": str(cudnn) if cudnn else None,
        "NCCL": _nccl(),
    }


def _nccl() -> str | None:
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        return None
    found = torch.cuda.nccl.version()
    return ".".join(map(str, found)) if isinstance(found, tuple) else str(found)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The NVIDIA driver's version, from nvidia-smi or the kernel's module; None without one."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            said = run_bounded(asked, 20)
        except OSError as error:
            return f"unknown ({error})"
        return said.output.split()[0] if said.code == 0 and said.output.strip() else "unknown"
    module = Path("/proc/driver/nvidia/version")
    return module.read_text(encoding="utf-8").splitlines()[0] if module.exists() else None


def of_card(check: Check, device: str) -> Row:
    """A card's row, from a process of its own: a broken card may hang or end whoever touches it."""
    seconds = max(1.0, min(CARD_SECONDS, check.seconds_left() - 5))
    environment = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    ended = run_bounded([sys.executable, "-m", "gpu_check.versions", device], seconds, environment)
    if ended.code == 0:
        row = json.loads(ended.output.splitlines()[-1])
        return Row(**{**row, "output": tuple(row["output"])})
    how = f"did not end within {seconds:.0f} s" if ended.code is None else f"ended with code {ended.code}"
    last = (ended.errors.strip().splitlines() or ["not a word"])[-1]
    return check.judged(f"computes: {device}", False, f"its process {how}: {last}")


def _computes(check: Check, device: str) -> Row:
    """A matrix product on the device, in both precisions, against the CPU's in double precision."""
    try:
        return _products(check, device)
    except RuntimeError as error:  # of this card alone: the others are looked at, too
        return check.failed(f"computes: {device}", error)


def _products(check: Check, device: str) -> Row:
    name = "the CPU" if device == "cpu" else f"{device}, {torch.cuda.get_device_name(device)}"
    torch.set_float32_matmul_precision("highest")  # the environment may have chosen TF32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    errors = {}
    for precision, tolerance in TOLERANCE.items():
        dtype = getattr(torch, precision)
        left, right = a.to(dtype), b.to(dtype)
        exact = left.double() @ right.double()
        found = (left.to(device) @ right.to(device)).cpu().double()
        errors[precision] = float((found - exact).abs().max() / exact.abs().max())
        if not errors[precision] <= tolerance:
            return check.judged(
                f"computes: {device}", False, f"{name}: a product in {precision} is off by {errors[precision]:.1e}"
            )
    memory = ""
    if device != "cpu":
        free, total = torch.cuda.mem_get_info(device)
        memory = f", {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    said = ", ".join(f"{precision} to {error:.0e}" for precision, error in errors.items())
    return check.judged(f"computes: {device}", True, f"{name}{memory}: products in {said}", name=name, **errors)


if __name__ == "__main__":
    found = _computes(Check(part="versions", device="cuda", folder=Path(), ends=0.0), sys.argv[1])
    print(json.dumps(asdict(found)))
