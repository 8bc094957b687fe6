"""Of a process's environment: options left over there are hidden from a run, and what changes numbers is recorded.

A shell, a notebook or a site's module may hold variables that Accelerate, DeepSpeed and MPI take for options of the
run. The spec says all of these, so that one run id has one result. Other variables choose kernels of torch's back ends;
they are the site's to set, and go into the provenance, by which the analysis warns of runs that differ. No torch here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tensloradist.errors import UserError

# Options of Accelerate, and of what it configures; MPI's places, which Accelerate believes before torchrun's.
_OPTIONS = re.compile(
    r"(ACCELERATE|FSDP|MEGATRON_LM|PARALLELISM_CONFIG|PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD)_.*"
    r"|MPI_LOCALRANKID|MPI_LOCALNRANKS|FORK_LAUNCHED|DS_ACCELERATOR"
)
# A process's place among those of one run, as torchrun, `accelerate launch` and this project's workers say it.
_PLACE = re.compile(
    r"(LOCAL_|GROUP_|NODE_|ROLE_|CROSS_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|(LOCAL|CROSS)_SIZE"
    r"|MASTER_(ADDR|PORT)|TORCHELASTIC_USE_AGENT_STORE"
)
# What chooses kernels and how they round: of torch, of the libraries below it, and of those that hold the backbones.
_NUMERIC = re.compile(
    r"NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|(CUBLAS|CUBLASLT|CUDNN|MIOPEN|ROCBLAS|HIPBLASLT)_.*"
    r"|TORCH_(BLAS|LINALG)_PREFER_.*|TORCH_(CUDNN|MKLDNN|ROCM|LINEAR)_.*|DISABLE_ADDMM_(CUDA|HIP)_LT|PYTORCH_(TUNABLEOP|MIOPEN)_.*"
    r"|(TORCHINDUCTOR|TORCHDYNAMO|TORCH_COMPILE|TRITON|NVTE|XFORMERS)_.*|FLASH_ATTENTION_.*|USE_HUB_KERNELS|TIMM_.*"
    r"|TRANSFORMERS_(SDPA|DISABLE)_.*|NCCL_(ALGO|PROTO|COLLNET_ENABLE|NVLS_ENABLE)|BNB_(CUDA|ROCM)_VERSION"
    r"|ATEN_CPU_CAPABILITY|(MKL|ONEDNN|DNNL|OPENBLAS|BLIS)_.*|OMP_DYNAMIC|KMP_(DETERMINISTIC|FORCE)_REDUCTION"
    r"|GLIBC_TUNABLES|LD_PRELOAD"
)
# Of these: what is written and where, by whole words; threads are recorded as what they are. A DEBUG with more words
# after it switches kernels (MKL_DEBUG_CPU_TYPE, MIOPEN_DEBUG_CONV_GEMM), and an override's file says which to take.
_NO_NUMBERS = re.compile(r"_(NUM_THREADS|VERBOSE|LOG[A-Z]*|DIR|CACHE|(?<!OVERRIDE_)(PATH|FILE))(_|\Z)|_DEBUG\Z")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a new process of a run takes over: neither left-over options nor another process's place."""
    return {
        name: value
        for name, value in environment.items()
        if not _OPTIONS.fullmatch(name) and not _PLACE.fullmatch(name)
    }


def numeric_settings() -> dict[str, str]:
    """The variables set here that can change a result's last digits or more, by name."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if value and _NUMERIC.fullmatch(name) and not _NO_NUMBERS.search(name)
    }


def world_size() -> int:
    """How many processes were started together: 1 where nobody says it.

    Raises:
        UserError: `WORLD_SIZE` is no number of processes.
    """
    return _number("WORLD_SIZE", 1, least=1)


def process_index() -> int:
    """Which of the processes that were started together this is, from 0; a `RANK` alone is left over and means nothing.

    Raises:
        UserError: `RANK` is none of them.
    """
    if (processes := world_size()) == 1:
        return 0
    found = _number("RANK", 0, least=0)
    if found >= processes:
        raise UserError(f"RANK: {found}, but WORLD_SIZE is {processes}; unset both, or start all with torchrun")
    return found


def _number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}: {text!r} is no whole number from {least}; unset it, or start with torchrun")
    return int(text)


@contextmanager
def of_the_run(processes: int) -> Iterator[None]:
    """Hide left-over options while a run trains, and for one of one process a place among others; then restore them."""
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
