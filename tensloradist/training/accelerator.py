"""The Accelerator of one run: device, precision and processes as the spec asks, checked, and released afterwards."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import nn

from tensloradist import environment
from tensloradist.backbones.quantization import compute_in
from tensloradist.errors import UserError
from tensloradist.nested import dotted
from tensloradist.ports import free_port
from tensloradist.spec import RunSpec
from tensloradist.trackers import require_trackers
from tensloradist.training.devices import choose_gpu, uses_cpu
from tensloradist.training.numerics import full_float32
from tensloradist.wording import counted


@contextmanager
def only_the_spec(processes: int) -> Iterator[None]:
    """While a run trains or is evaluated, its spec alone decides: leftover variables are ignored, and fp32 is not TF32.

    Raises:
        UserError: another number of processes was started than `compute.processes`.
    """
    if (world := environment.world_size()) != processes:
        raise UserError(f"compute.processes: {processes}, but {_started(world)}; {_remedy(processes, world)}")
    with environment.of_the_run(processes), full_float32():
        yield


def _started(world: int) -> str:
    if not os.environ.get("WORLD_SIZE", "").strip():
        return "1 process was started"
    return f"{counted(world, 'process')} {'was' if world == 1 else 'were'} started, as WORLD_SIZE says"


def _remedy(processes: int, world: int) -> str:
    if processes == 1:
        return f"unset WORLD_SIZE if it is left over, or set compute.processes to {world}"
    command = f"torchrun --nproc_per_node {processes} -m tensloradist run …"
    return f"start them with `{command}` or through `tensloradist launch`"


def make_accelerator(spec: RunSpec, folder: Path | None) -> Accelerator:
    """An Accelerator with exactly the processes, device, strategy and precision that the spec asks for.

    Call it within `only_the_spec`, since Accelerate takes many settings from the environment.

    Raises:
        UserError: CUDA is requested or present but not usable; ZeRO without DeepSpeed; a tracker is not installed.
    """
    compute = spec.compute
    require_trackers(compute.log_with)
    on_cpu = uses_cpu(compute)
    if not on_cpu:
        choose_gpu(compute)
    common: dict[str, Any] = {
        "dynamo_backend": "no",  # `compile` compiles block by block
        "log_with": list(compute.log_with) or None,
        "project_dir": str(folder) if compute.log_with and folder is not None else None,
    }
    if compute.zero_stage:
        accelerator = _with_deepspeed(spec, on_cpu, common)
    else:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"
        groups = [InitProcessGroupKwargs(timeout=timedelta(seconds=compute.timeout_seconds))]
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if spec.precision == "bf16" else "no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop itself weighs passes
            kwargs_handlers=groups if compute.processes > 1 else None,
            **common,
        )
    if accelerator.num_processes != compute.processes:
        raise RuntimeError(f"Accelerate runs {accelerator.num_processes} processes instead of {compute.processes}")
    if compute.log_with:
        accelerator.init_trackers("tensloradist", config=_settings(spec))
    return accelerator


def _with_deepspeed(spec: RunSpec, on_cpu: bool, common: dict[str, Any]) -> Accelerator:
    """An Accelerator whose `prepare` makes a DeepSpeed engine.

    The libraries are told everything that they would otherwise guess wrongly and silently: `cpu=True` switches
    DeepSpeed off, and without the backend every process trains alone on all of the data.
    """
    from tensloradist.training.deepspeed_config import deepspeed_config

    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"compute.strategy: {spec.compute.strategy} needs DeepSpeed, which is not installed here; "
            "pip install 'tensloradist[deepspeed]'"
        )
    config = deepspeed_config(spec, on_gpu=not on_cpu)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    if on_cpu:
        os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu"}
    if spec.compute.processes == 1:  # a group of its own, whoever started it
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    from accelerate import DeepSpeedPlugin
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import groups, logger

    logger.setLevel("WARNING")
    # Each gather calls functions by their former names, and torch warns each time.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # It serves inference only, and DeepSpeed would spend half a minute compiling it first.
    __compatible_ops__["deepspeed_shm_comm"] = False
    timeout = timedelta(seconds=spec.compute.timeout_seconds)
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False),
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl", timeout=timeout)],
        mixed_precision="no",  # the configuration decides
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config["gradient_accumulation_steps"]),
        **common,
    )
    # DeepSpeed's own copy of the group of all processes, which it would make with torch's timeout and not the spec's.
    groups._WORLD_GROUP = torch.distributed.new_group(timeout=timeout)
    found = accelerator.state.deepspeed_plugin
    # With it, transformers would shard every model that it makes from now on. `Zero` shards the backbone, for all
    # sources, and needs it whole on the first process.
    found.dschf = None
    if found.zero_stage != spec.compute.zero_stage:
        raise RuntimeError(f"Accelerate does not run DeepSpeed's {spec.compute.strategy}: {accelerator.state}")
    if (accelerator.device.type == "cpu") != on_cpu:
        raise RuntimeError(f"Accelerate computes on {accelerator.device}, contrary to compute.device")
    return accelerator


def in_precision(model: nn.Module, precision: str) -> None:
    """Hold frozen weights in the run's precision, and let layers in 4 bits compute in it.

    Trainable weights keep their precision, and autocast rounds them.
    """
    if precision == "bf16":
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():  # quantised ones stay as they are
                parameter.data = parameter.data.to(torch.bfloat16)
        compute_in(model, torch.bfloat16)


def release(accelerator: Accelerator) -> None:
    """End the trackers, free what the run held on the device, and let the next run in this process choose anew."""
    accelerator.free_memory()  # first: it needs the process group that the other ends
    accelerator.end_training()
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def _settings(spec: RunSpec) -> dict[str, str | int | float | bool]:
    """The specification as a tracker takes it: plain values by dotted names."""
    fields = dotted(spec.model_dump(mode="json"))
    return {name: value if isinstance(value, str | int | float | bool) else str(value) for name, value in fields}
