"""Which device a run's process computes on, checked before a library guesses."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tensloradist.compute import ComputeSpec
from tensloradist.errors import UserError
from tensloradist.gpus import device_files, listed_gpus, variable, visible_gpus, why_torch_finds_none
from tensloradist.wording import counted

_AMD = Path("/dev/kfd")  # the driver of AMD's GPUs


def uses_cpu(compute: ComputeSpec) -> bool:
    """Whether the run computes on the CPU.

    Raises:
        UserError: it would, although the spec, the environment or nvidia-smi names a GPU.
    """
    if compute.device == "cpu":
        return True
    if torch.cuda.is_available():
        return False
    if compute.device == "cuda":
        reason = why_torch_finds_none()
        raise UserError(f"compute.device: 'cuda', but torch sees no CUDA device here ({reason}); use auto or cpu")
    if visible_gpus():
        name = variable()
        listed = len(listed_gpus())
        there = f"there {'is' if listed == 1 else 'are'} {counted(listed, 'GPU')}"
        named = f"{name}={os.environ[name]}" if name in os.environ else there
        if name in os.environ and not listed and not device_files() and not _AMD.exists():
            raise UserError(
                f"compute.device: 'auto', and {named}, but there is no GPU here; unset {name}, or set compute.device: "
                "cpu"
            )
        reason = why_torch_finds_none()
        raise UserError(
            f"compute.device: 'auto', and {named}, but torch {torch.__version__} cannot use them ({reason}). "
            "Install a torch that fits the driver, or set compute.device: cpu to train on the CPU"
        )
    return True


def choose_gpu(compute: ComputeSpec) -> None:
    """Let this process and its libraries use its own GPU.

    Libraries choose the GPU by the process's number on its machine. If each process sees only one GPU, as with Slurm's
    --gpus-per-task and --gpu-bind, that GPU has the number 0 in every process.

    Raises:
        UserError: the machine has more processes than GPUs that they see.
    """
    here, visible = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > 1 and visible == 1:
        os.environ["LOCAL_RANK"] = "0"
    elif here > visible:
        raise UserError(
            f"compute.processes: {compute.processes}, {here} of them on this machine, but they see "
            f"{counted(visible, 'GPU')}; ask for one GPU per process, or for "
            f"{counted(visible, 'process', 'processes')} per machine"
        )
