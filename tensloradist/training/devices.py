"""Which device a run's process computes on, checked before a library guesses."""

from __future__ import annotations

import os

import torch

from tensloradist.compute import ComputeSpec
from tensloradist.errors import UserError
from tensloradist.gpus import VARIABLES, listed_gpus, visible_gpus
from tensloradist.wording import counted


def uses_cpu(compute: ComputeSpec) -> bool:
    """Whether the run computes on the CPU.

    Raises:
        UserError: it would do so although the spec, the environment or nvidia-smi names a GPU.
    """
    if compute.device == "cpu":
        return True
    if torch.cuda.is_available():
        return False
    if compute.device == "cuda":
        raise UserError(f"compute.device: 'cuda', but torch sees no CUDA device here ({_reason()}); use auto or cpu")
    if visible_gpus():
        named = next((f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ), None)
        raise UserError(
            f"compute.device: 'auto', and {named or f'nvidia-smi lists {len(listed_gpus())} GPU(s)'}, but torch "
            f"{torch.__version__} cannot use it ({_reason()}). Install a torch that fits the driver, or set "
            "compute.device: cpu to train on the CPU"
        )
    return True


def _reason() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "it is a build for CPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())
    return "it finds no device"


def choose_gpu(compute: ComputeSpec) -> None:
    """Let this process and its libraries use the GPU that is its own.

    Libraries take the GPU with the number of the process on its machine. Where a process sees one GPU alone (Slurm's
    --gpus-per-task and --gpu-bind do that), that one has the number 0 in every process.

    Raises:
        UserError: the machine's processes are more than the GPUs that they see.
    """
    here, visible = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > 1 and visible == 1:
        os.environ["LOCAL_RANK"] = "0"
    elif here > visible:
        raise UserError(
            f"compute.processes: {compute.processes}, {here} of them on this machine, but they see "
            f"{counted(visible, 'GPU')}; ask for one GPU a process, or for "
            f"{counted(visible, 'process', 'processes')} a machine"
        )
