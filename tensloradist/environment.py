"""A run's environment variables: left-over options are hidden from it, and variables that change numbers are recorded.

A shell, a notebook or a site's module may set variables that Accelerate, DeepSpeed and MPI read as options of the run.
The specification decides all of these, so that one run id has one result. Other variables choose kernels of torch's
backends; sites may set them, and provenance records them, so that the analysis can warn of differences. Imports no
torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tensloradist.errors import UserError

# Options of Accelerate and of what it configures; MPI's ranks, which Accelerate prefers to torchrun's.
_OPTIONS = re.compile(
    r"(ACCELERATE|FSDP|MEGATRON_LM|PARALLELISM_CONFIG|PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
    r"|MPI_LOCALRANKID|MPI_LOCALNRANKS|FORK_LAUNCHED|DS_ACCELERATOR"
)
# A process's place among those of one run, as set by torchrun, `accelerate launch` and this project's workers.
_PLACE = re.compile(
    r"(LOCAL_|GROUP_|NODE_|ROLE_|CROSS_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|(LOCAL|CROSS)_SIZE"
    r"|MASTER_(ADDR|PORT)|TORCHELASTIC_USE_AGENT_STORE"
)
# Variables of torch, the libraries below it and those of the backbones that choose kernels and their rounding.
_NUMERIC = re.compile(
    r"NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|(CUBLAS|CUBLASLT|CUDNN|MIOPEN|ROCBLAS|HIPBLASLT)_.*"
    r"|TORCH_(BLAS|LINALG)_PREFER_.*|TORCH_(CUDNN|MKLDNN|ROCM|LINEAR)_.*|DISABLE_ADDMM_(CUDA|HIP)_LT|PYTORCH_(TUNABLEOP|MIOPEN)_.*"
    r"|(TORCHINDUCTOR|TORCHDYNAMO|TORCH_COMPILE|TRITON|NVTE|XFORMERS)_.*|FLASH_ATTENTION_.*|USE_HUB_KERNELS|TIMM_.*"
    r"|TRANSFORMERS_(SDPA|DISABLE)_.*|NCCL_(ALGO|PROTO|COLLNET_ENABLE|NVLS_ENABLE)|BNB_(CUDA|ROCM)_VERSION"
    r"|ATEN_CPU_CAPABILITY|(MKL|ONEDNN|DNNL|OPENBLAS|BLIS)_.*|OMP_DYNAMIC|KMP_(DETERMINISTIC|FORCE)_REDUCTION"
    r"|GLIBC_TUNABLES|LD_PRELOAD"
)
# Exceptions by whole words: variables on output, folders and caches; threads are recorded separately. DEBUG followed by
# more words switches kernels (MKL_DEBUG_CPU_TYPE, MIOPEN_DEBUG_CONV_GEMM), and an override's file chooses them.
_NO_NUMBERS = re.compile(r"_(NUM_THREADS|VERBOSE|LOG[A-Z]*|DIR|CACHE|(?<!OVERRIDE_)(PATH|FILE))(_|\Z)|_DEBUG\Z")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a new process of a run, without left-over options and another process's place."""
    return {
        name: value
        for name, value in environment.items()
        if not _OPTIONS.fullmatch(name) and not _PLACE.fullmatch(name)
    }


def numeric_settings() -> dict[str, str]:
    """Name -> value of the variables set here that can change a result, if only in its last digits."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if value and _NUMERIC.fullmatch(name) and not _NO_NUMBERS.search(name)
    }


def world_size() -> int:
    """The number of processes started together; 1 if `WORLD_SIZE` is not set.

    Raises:
        UserError: `WORLD_SIZE` is not a positive integer.
    """
    return _number("WORLD_SIZE", 1, least=1)


def process_index() -> int:
    """The index of this process among those started together, from 0. `RANK` without `WORLD_SIZE` is ignored.

    Raises:
        UserError: `RANK` is not an index below `WORLD_SIZE`.
    """
    if (processes := world_size()) == 1:
        return 0
    index = _number("RANK", 0, least=0)
    if index >= processes:
        raise UserError(f"RANK: {index}, but WORLD_SIZE is {processes}; unset both, or start all with torchrun")
    return index


def _number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}: {text!r} is not an integer of at least {least}; unset it, or start with torchrun")
    return int(text)


@contextmanager
def of_the_run(processes: int) -> Iterator[None]:
    """Hide left-over options while a run trains, and ranks from a run of one process; then restore them."""
    before = dict(os.environ)
    for name in before:
        if _OPTIONS.fullmatch(name) or (processes == 1 and _PLACE.fullmatch(name)):
            del os.environ[name]
    try:
        yield
    finally:
        names = {name for name in (*before, *os.environ) if _OPTIONS.fullmatch(name) or _PLACE.fullmatch(name)}
        for name in names:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
