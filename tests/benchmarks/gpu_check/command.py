"""The command: which parts, in which order and time; the table as it grows, and the file of rows. No torch here."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_check.part import Part
from gpu_check.process import run_in_process
from gpu_check.report import HEADER, Report, Row
from gpu_check.runs import LAUNCH, RUN, TRAIN
from tensloradist.bounded import run_bounded

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parents[1]
LIMIT_SECONDS = {"cuda": 600.0, "cpu": 240.0}
# One thread: the models are tiny, and on a busy machine threads wait for each other.
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
LEAST_SECONDS = 5.0  # with less no part is begun
START_SECONDS = 20.0  # what a slow disk may take to import torch
MODELS = ("vit_base", "decoder_1b", "decoder_7b", "tiny", "tiny_decoder")
MEMBERS = ("all", "lora", "att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth")
PARTS = (
    Part(
        name="versions",
        module="gpu_check.versions",
        question="what is installed, and does every card compute?",
        expected={"cuda": 15, "cpu": 6},
    ),
    Part(
        name="steps",
        module="gpu_check.steps",
        question="a step's kernels, time and memory against PEFT's LoRA, eager and compiled",
        needs=("numpy", "pydantic", "safetensors", "transformers", "peft"),
        expected={"cuda": 180, "cpu": 45},
    ),
    Part(
        name="loop",
        module="gpu_check.loop",
        question="the training loop: kernels, waits, and the GPU's idle time",
        needs=TRAIN,
        expected={"cuda": 30, "cpu": 12},
    ),
    Part(
        name="warm",
        module="gpu_check.warm",
        question="five runs in a warm process against fresh ones, and what they leave in memory",
        needs=RUN,
        expected={"cuda": 50, "cpu": 25},
    ),
    Part(
        name="resume",
        module="gpu_check.resume",
        question="is a run that was stopped and resumed the same as one that was not?",
        needs=TRAIN,
        expected={"cuda": 25, "cpu": 12},
    ),
    Part(
        name="planner",
        module="gpu_check.planner",
        question="the planned memory against the peak",
        needs=LAUNCH,
        expected={"cuda": 40, "cpu": 12},
    ),
    Part(
        name="launch",
        module="gpu_check.launching",
        question="a batch that does not fit is halved; two workers on one card",
        needs=LAUNCH,
        expected={"cuda": 60, "cpu": 30},
    ),
    Part(
        name="variants",
        module="gpu_check.variants",
        question="int8, nf4, and ZeRO with offload",
        needs=RUN,
        expected={"cuda": 90, "cpu": 40},
    ),
    Part(
        name="collectives",
        module="gpu_check.collectives",
        question="NCCL, and a run of strategy ddp",
        needs=TRAIN,
        expected={"cuda": 30, "cpu": 20},
    ),
)
_PROBE = """
import torch
print(torch.__version__, torch.cuda.device_count() if torch.cuda.is_available() else 0)
"""
_ABOUT_CPU = """\
{}: all parts run on the CPU, on tiny models. This shows that the check itself works; nothing that
follows is about GPUs."""


@dataclass(frozen=True)
class Torch:
    version: str
    cards: int


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    given = _parser(parts).parse_args(arguments)
    wanted = [part for part in parts if not given.parts or part.name in given.parts]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what a part has started is ended, too
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        environment = _environment(os.environ, Path(folder))
        print(f"Asking torch of {sys.executable} which GPUs there are ...", flush=True)
        try:
            found = _probe(environment)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        device, refusal = _device(given.device, found)
        try:
            report = Report(given.json, device=device, torch=found.version, cards=found.cards)
        except OSError as error:
            print(f"error: {given.json}: {error.strerror}; name another file with --json", file=sys.stderr)
            return 2
        cards = f"torch {found.version}, {found.cards} × CUDA"
        on_cpu = _ABOUT_CPU.format(f"{cards}, and --device cpu" if found.cards else "No GPU was found")
        print(refusal or (on_cpu if device == "cpu" else cards), flush=True)
        if refusal:
            wanted = [part for part in parts if part.name == "versions"]
        if device == "cpu":
            environment |= ON_CPU
        options = {"models": given.models, "members": given.members}
        limit = given.limit or LIMIT_SECONDS[device]
        return run_parts(wanted, report, device, limit, options, environment, Path(folder), began)


def run_parts(
    parts: Sequence[Part],
    report: Report,
    device: str,
    limit: float,
    options: dict[str, Any],
    environment: dict[str, str],
    folder: Path,
    began: float,
) -> int:
    """Run the parts in order and print the table; returns the exit code.

    Args:
        limit: seconds for all of them, from `began` (time.monotonic()) on.
        options, environment: of the parts' processes.
        folder: where the parts may write.
    """
    print(f"\n{HEADER}", flush=True)
    try:
        for index, part in enumerate(order := in_order(parts)):
            seconds = share([later.expected[device] for later in order[index:]], limit - (time.monotonic() - began))
            if seconds < LEAST_SECONDS:
                reason = f"not begun: the {limit:.0f} s are over"
                _add(report, Row(part=part.name, check="all of it", state="skipped", text=reason))
                continue
            _say(f"{part.name} ({index + 1} of {len(order)}, at most {seconds:.0f} s): {part.question}")
            for row in run_in_process(
                part,
                device=device,
                folder=folder / part.name,
                seconds=seconds,
                options=options,
                environment=environment,
                say=lambda text: _say(f"  {text}"),
            ):
                _add(report, row)
    except KeyboardInterrupt:
        print("\nInterrupted: the rows above stand.", flush=True)
        report.write(interrupted=True)
    took, counts = time.monotonic() - began, report.counts()
    report.write(seconds=round(took, 1), limit_seconds=limit)
    return _summary(report, counts, took)


def _summary(report: Report, counts: Mapping[Any, int], took: float) -> int:
    print("\n" + ", ".join(f"{state}: {number}" for state, number in counts.items()) + f"; {took:.0f} s", flush=True)
    for row in report.rows:
        if row.state == "falls short":
            print(row.line(), *(f"    {line}" for line in row.output), sep="\n")
    if report.path is not None:
        print(f"As JSON, with the last lines of what fell short: {report.path}")
    return 1 if counts["falls short"] or report.about.get("interrupted") else 0


def share(expected: Sequence[float], left: float) -> float:
    """How many of the seconds that are left the first part gets.

    Where there is enough for all, the parts after it keep what they are expected to take, so that a hang costs no other
    part; where there is not, the last ones have to go without.
    """
    first, *later = expected
    spare = max(0.0, left - sum(expected))
    more = max(START_SECONDS, min(spare, 2 * first + 0.3 * spare))
    return min(left, first + more) if later else left


def in_order(parts: Sequence[Part]) -> list[Part]:
    """As they are listed, the steps last: they take what time is left."""
    return sorted(parts, key=lambda part: part.name == "steps")


def _add(report: Report, row: Row) -> None:
    report.add(row)
    print(row.line(), flush=True)


def _say(text: str) -> None:
    print(f"{'·':>11}  {text}", flush=True)


def _parser(parts: Sequence[Part]) -> argparse.ArgumentParser:
    numbers = {str(number): part.name for number, part in enumerate(parts, 1)}

    def named(text: str) -> str:
        if (name := numbers.get(text, text)) not in numbers.values():
            raise argparse.ArgumentTypeError(f"no part {text!r}; the parts are {', '.join(numbers.values())}")
        return name

    listed = "\n".join(f"  {number} {part.name:12} {part.question}" for number, part in enumerate(parts, 1))
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description="What holds on this machine's GPU: every part in a process of its own, within a time limit.",
        epilog=f"parts:\n{listed}\n\nExit code: 0 when all that was tried holds, 1 when some fall short.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", type=named, default=[], help="by number or name [all]")
    parser.add_argument("--limit", type=_seconds, help="seconds for all parts together [600; on the CPU 240]")
    parser.add_argument("--json", type=Path, default=Path("results/gpu-check.json"), help="[results/gpu-check.json]")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="[auto]")
    parser.add_argument(
        "--models", nargs="+", default=[], choices=MODELS, help="of steps [vit_base decoder_1b; on the CPU tiny ones]"
    )
    parser.add_argument(
        "--members", nargs="+", default=["lora", "att_qkv_depth"], choices=MEMBERS, help="of steps [lora att_qkv_depth]"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _probe(environment: dict[str, str]) -> Torch:
    """What torch says, asked in a process of its own. Raises RuntimeError where it cannot be imported."""
    done = run_bounded([sys.executable, "-c", _PROBE], 120, environment)
    if done.code is None:
        raise RuntimeError("torch has not told in 120 s whether there is a GPU")
    if done.code:
        last = (done.errors.strip().splitlines() or ["not a word"])[-1]
        raise RuntimeError(f"torch, which every part needs, cannot be used by {sys.executable}: {last}")
    version, cards = done.output.split()[-2:]
    return Torch(version, int(cards))


def _device(asked: str, found: Torch) -> tuple[str, str | None]:
    """(cuda or cpu, why no other part than the versions can be tried)."""
    if asked == "cpu" or (asked == "auto" and not found.cards and not _has_nvidia()):
        return "cpu", None
    if found.cards:
        return "cuda", None
    why = "--device cuda" if asked == "cuda" else "this machine has NVIDIA cards"
    return "cuda", f"{why}, but torch {found.version} sees none: --device cpu tries the check itself, on the CPU"


def _has_nvidia() -> bool:
    return any(path.name.removeprefix("nvidia").isdecimal() for path in Path("/dev").glob("nvidia*"))


def _environment(inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Of the parts' processes: they import this checkout, write below `folder`, and ask no network."""
    paths = [str(BENCHMARKS), str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]
    if not _is_installed():
        paths.append(str(as_if_installed(folder / "installed")))
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TENSLORADIST_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "KINETO_LOG_LEVEL": "99",  # or torch's profiler writes of each start
    }
    left_over = ("TENSLORADIST_RESULTS", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return {**{name: value for name, value in inherited.items() if name not in left_over}, **own}


def _is_installed() -> bool:
    try:
        importlib.metadata.version("tensloradist")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def as_if_installed(folder: Path) -> Path:
    """What an installation would say of this checkout: without it the command line has no `launch`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = folder / f"tensloradist-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensloradist\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
