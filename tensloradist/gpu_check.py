"""Whether each GPU computes what the CPU computes: products of matrices, in a process of its own for each GPU.

`python -m tensloradist.gpu_check` is that process, and checks the one GPU that its environment lets it see. A broken
GPU may hang or end whoever touches it, so the process that asks touches none.
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
SECONDS = 90.0  # for a GPU: to import torch from a cold network file system, and to start CUDA
AT_ONCE = 8
SIZE = 1024  # of the square matrices
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2}  # of the largest entry: well above rounding


@dataclass(frozen=True)
class Checked:
    """What the check of one GPU found: `error` None where it computes as it should."""

    gpu: str
    found: str
    error: str | None


def check_gpus(seconds: float = SECONDS) -> list[Checked]:
    """Check every GPU that this process may use, each for so long at most; an empty list where there is none.

    Raises:
        UserError: torch itself does not even say how many GPUs it sees.
    """
    names = visible_gpus() or _seen_by_torch(seconds)
    if not names:
        return []
    described = described_gpus()
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as threads:
        return list(threads.map(lambda name: _check(name, names, described, seconds), names))


def _check(name: str, names: Sequence[str], described: Mapping[str, str], seconds: float) -> Checked:
    ended = run_bounded(COMMAND, seconds, _environment({**only((name,)), "OMP_NUM_THREADS": "1"}))
    words = _words(ended.output)
    about = words.get("gpu") or _described(name, described)
    gpu = f"GPU {name} ({about})" if about else f"GPU {name}"
    if ended.code == 0 and (differences := words.get("differences")):
        found = ", ".join(f"{precision} within {value:.0e}" for precision, value in differences.items())
        return Checked(gpu, f"products of matrices agree with the CPU's ({found})", None)
    if words.get("refused"):  # with a remedy of its own
        return Checked(gpu, "", words["refused"])
    if ended.code is None:
        error = f"no answer within {seconds:g} s"
    else:
        how = f"ended by signal {-ended.code}" if ended.code < 0 else f"exited with {ended.code}"
        last = (ended.errors.strip().splitlines() or ["without a word"])[-1]
        error = words.get("error") or f"its process {how}: {last}"
    others = ",".join(other for other in names if other != name)
    remedy = f"set {next(iter(only(())))}={others} to use the others" if others else "use another machine"
    return Checked(
        gpu,
        "",
        f"{error}; look at it with nvidia-smi, and for 'Xid' in dmesg; {remedy}, or exclude the node in a profile "
        "(sbatch: {exclude: NODE})",
    )


def _described(name: str, described: Mapping[str, str]) -> str:
    """What nvidia-smi says of a GPU that did not say it itself; a variable may have the beginning of a UUID."""
    if name.isdecimal():  # a number of CUDA's, which has the fastest card first; nvidia-smi numbers by PCI bus
        models = {next(part for part in text.split(", ")[::-1] if part[:4] != "GPU-") for text in described.values()}
        alike = len(models) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        return described.get(name, "") if alike else ""
    return next((text for known, text in described.items() if known.startswith(name) or f", {name}" in text), "")


def _seen_by_torch(seconds: float) -> tuple[str, ...]:
    """The GPUs that torch finds although no variable and no nvidia-smi names them: AMD's."""
    ended = run_bounded([*COMMAND, "--count"], seconds, _environment({}))
    count = _words(ended.output).get("count")
    if count is None:
        how = f"did not end within {seconds:g} s" if ended.code is None else f"exited with {ended.code}"
        last = (ended.errors.strip().splitlines() or ["without a word"])[-1]
        raise UserError(f"a process that asks torch for its GPUs {how}: {last}")
    return tuple(map(str, range(count)))


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """A child's variables, none of which makes fp32 something else."""
    found = {**inherited(os.environ), **more}
    for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        found.pop(name, None)
    return found


def _words(output: str) -> dict[str, Any]:
    """What a child has said, in lines of JSON; the last may be torn."""
    words: dict[str, Any] = {}
    for line in output.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        words |= said if isinstance(said, dict) else {}
    return words


def differences(device: torch.device) -> dict[str, float]:
    """For each precision that the device has: the largest error of a product, over the largest entry.

    The product is that of two random SIZE × SIZE matrices; the CPU computes it in float64 from the same rounded ones.

    Raises:
        ArithmeticError: an error is larger than rounding makes it.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    dtypes = {"fp32": torch.float32}
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        dtypes["bf16"] = torch.bfloat16
    found = {}
    for precision, dtype in dtypes.items():
        a, b = left.to(dtype), right.to(dtype)
        expected = a.double() @ b.double()
        product = (a.to(device) @ b.to(device)).cpu().double()
        error = float((product - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCES[precision]:  # NaN, too
            raise ArithmeticError(
                f"a product of matrices in {precision} is wrong: it differs from the CPU's by {error:.1e} of its "
                f"largest entry, where {TOLERANCES[precision]:g} is allowed"
            )
        found[precision] = error
    return found


def main(arguments: Sequence[str]) -> int:
    """Check the one visible GPU, or with --count say how many torch sees; lines of JSON on standard output."""
    import torch

    from tensloradist.compute import ComputeSpec
    from tensloradist.training.devices import uses_cpu

    if "--count" in arguments:
        _say(count=torch.cuda.device_count() if torch.cuda.is_available() else 0)
        return 0
    try:
        if uses_cpu(ComputeSpec()):
            raise UserError(f"torch {torch.__version__} sees no GPU")
        properties = torch.cuda.get_device_properties(0)
        _say(gpu=f"{properties.name}, GPU-{str(properties.uuid).removeprefix('GPU-')}")
        _say(differences=differences(torch.device("cuda", 0)))
    except UserError as error:
        _say(refused=str(error))
        return 1
    except (RuntimeError, AssertionError, ArithmeticError) as error:
        _say(error=" ".join(f"{type(error).__name__}: {error}".split()))
        return 1
    return 0


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
