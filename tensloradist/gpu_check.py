"""Check that each GPU computes the same matrix products as the CPU, in a separate process for each GPU.

`python -m tensloradist.gpu_check` is that process; it checks the one GPU that its environment makes visible. A broken
GPU may hang or kill any process that uses it, so the parent uses none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensloradist.bounded import run_bounded
from tensloradist.environment import inherited
from tensloradist.errors import UserError
from tensloradist.gpus import described_gpus, only, visible_gpus

if TYPE_CHECKING:
    import torch

COMMAND = (sys.executable, "-m", "tensloradist.gpu_check")
SECONDS = 90.0  # per GPU, to import torch from a cold network file system and start CUDA
AT_ONCE = 8
SIZE = 1024  # rows of the square matrices
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2}  # relative to the largest entry, well above rounding


@dataclass(frozen=True)
class Checked:
    """The result of checking one GPU; `error` is None if it computes correctly."""

    gpu: str
    found: str
    error: str | None


def check_gpus(seconds: float = SECONDS) -> list[Checked]:
    """Check every GPU that this process may use, each with this time limit; an empty list without GPUs.

    Raises:
        UserError: torch does not even report how many GPUs it sees.
    """
    names = visible_gpus() or _seen_by_torch(seconds)
    if not names:
        return []
    described = described_gpus()
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as threads:
        return list(threads.map(lambda name: _check(name, names, described, seconds), names))


def _check(name: str, names: Sequence[str], described: Mapping[str, str], seconds: float) -> Checked:
    ended = run_bounded(COMMAND, seconds, _environment({**only((name,)), "OMP_NUM_THREADS": "1"}))
    report = _report(ended.output)
    about = report.get("gpu") or _described(name, described)
    gpu = f"GPU {name} ({about})" if about else f"GPU {name}"
    if ended.code == 0 and (differences := report.get("differences")):
        found = ", ".join(f"{precision} within {value:.0e}" for precision, value in differences.items())
        return Checked(gpu, f"matrix products agree with the CPU's ({found})", None)
    if report.get("refused"):  # includes its own remedy
        return Checked(gpu, "", report["refused"])
    if ended.code is None:
        error = f"no answer within {seconds:g} s"
    else:
        how = f"ended by signal {-ended.code}" if ended.code < 0 else f"exited with {ended.code}"
        error = report.get("error") or f"its process {how}: {_last_line(ended.errors)}"
    others = ",".join(other for other in names if other != name)
    remedy = f"set {next(iter(only(())))}={others} to use the others" if others else "use another machine"
    return Checked(
        gpu,
        "",
        f"{error}; check nvidia-smi, and dmesg for 'Xid'; {remedy}, or exclude the node in a profile "
        "(sbatch: {exclude: NODE})",
    )


def _described(name: str, described: Mapping[str, str]) -> str:
    """nvidia-smi's description of a GPU whose process did not describe it; the name may be the start of a UUID."""
    if name.isdecimal():  # CUDA numbers the fastest card first, nvidia-smi numbers by PCI bus
        models = {next(part for part in text.split(", ")[::-1] if part[:4] != "GPU-") for text in described.values()}
        alike = len(models) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        return described.get(name, "") if alike else ""
    return next((text for known, text in described.items() if known.startswith(name) or f", {name}" in text), "")


def _seen_by_torch(seconds: float) -> tuple[str, ...]:
    """The GPUs that torch finds although neither a variable nor nvidia-smi names them, such as AMD's."""
    ended = run_bounded([*COMMAND, "--count"], seconds, _environment({}))
    count = _report(ended.output).get("count")
    if count is None:
        how = f"did not end within {seconds:g} s" if ended.code is None else f"exited with {ended.code}"
        raise UserError(f"the process that counts torch's GPUs {how}: {_last_line(ended.errors)}")
    return tuple(map(str, range(count)))


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """A child's environment, without variables that change fp32 arithmetic."""
    variables = {**inherited(os.environ), **more}
    for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        variables.pop(name, None)
    return variables


def _last_line(errors: str) -> str:
    return (errors.strip().splitlines() or ["no error output"])[-1]


def _report(output: str) -> dict[str, Any]:
    """The fields that a child printed as lines of JSON, of which the last may be cut off."""
    fields: dict[str, Any] = {}
    for line in output.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        fields |= value if isinstance(value, dict) else {}
    return fields


def differences(device: torch.device) -> dict[str, float]:
    """Precision -> the largest error of a matrix product relative to its largest entry, for each supported precision.

    The product is of two random SIZE × SIZE matrices; the CPU computes the reference in float64 from the same rounded
    matrices.

    Raises:
        ArithmeticError: an error exceeds rounding.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    dtypes = {"fp32": torch.float32}
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        dtypes["bf16"] = torch.bfloat16
    errors = {}
    for precision, dtype in dtypes.items():
        a, b = left.to(dtype), right.to(dtype)
        expected = a.double() @ b.double()
        product = (a.to(device) @ b.to(device)).cpu().double()
        error = float((product - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCES[precision]:  # also catches NaN
            raise ArithmeticError(
                f"a matrix product in {precision} is wrong: it differs from the CPU's by {error:.1e} of its largest "
                f"entry; the tolerance is {TOLERANCES[precision]:g}"
            )
        errors[precision] = error
    return errors


def main(arguments: Sequence[str]) -> int:
    """Check the one visible GPU, or with --count count torch's GPUs; prints lines of JSON on standard output."""
    import torch

    from tensloradist.compute import ComputeSpec
    from tensloradist.training.devices import uses_cpu

    if "--count" in arguments:
        _emit(count=torch.cuda.device_count() if torch.cuda.is_available() else 0)
        return 0
    try:
        if uses_cpu(ComputeSpec()):
            raise UserError(f"torch {torch.__version__} sees no GPU")
        properties = torch.cuda.get_device_properties(0)
        _emit(gpu=f"{properties.name}, GPU-{str(properties.uuid).removeprefix('GPU-')}")
        _emit(differences=differences(torch.device("cuda", 0)))
    except UserError as error:
        _emit(refused=str(error))
        return 1
    except (RuntimeError, AssertionError, ArithmeticError) as error:
        _emit(error=" ".join(f"{type(error).__name__}: {error}".split()))
        return 1
    return 0


def _emit(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
