"""The Accelerator of one run: device, precision and processes as the spec asks, checked, and released afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from tensloradist.errors import UserError
from tensloradist.spec import RunSpec


def make_accelerator(spec: RunSpec, folder: Path) -> Accelerator:
    """An Accelerator with exactly the processes, device and precision that the spec asks for.

    Raises:
        UserError: CUDA asked for but absent, or another number of processes than `compute.processes`.
    """
    compute = spec.compute
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise UserError("compute.device: 'cuda', but torch sees no CUDA device here; use auto or cpu")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != compute.processes:
        raise UserError(
            f"compute.processes: {compute.processes}, but {world} process(es) were started; start "
            f"{compute.processes} with `torchrun --nproc-per-node` or through `tensloradist launch`"
        )
    on_cpu = compute.device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="bf16" if spec.precision == "bf16" else "no",
        log_with=list(compute.log_with) or None,
        project_dir=str(folder) if compute.log_with else None,
    )
    if accelerator.num_processes != compute.processes:
        raise RuntimeError(f"Accelerate runs {accelerator.num_processes} processes instead of {compute.processes}")
    if compute.log_with:
        accelerator.init_trackers("tensloradist", config=_flat(spec.model_dump(mode="json")))
    return accelerator


def release(accelerator: Accelerator) -> None:
    """End the trackers, free what the run held on the device, and let the next run in this process choose anew."""
    accelerator.end_training()
    accelerator.free_memory()
    if accelerator.num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()


def _flat(data: dict, prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = str(value)
    return flat
