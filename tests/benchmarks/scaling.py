"""Strong and weak scaling over processes, and memory a process under every strategy: real runs, on this machine.

    python tests/benchmarks/scaling.py                                   # 1 and 2 processes on the CPU, a small decoder
    python tests/benchmarks/scaling.py --processes 1 2 4 --hidden 1024 --layers 24
    python tests/benchmarks/scaling.py --only memory --hidden 1280 --layers 12      # over 300 M parameters

Strong scaling keeps the batch of an update, weak scaling a process's share of it. Efficiency is the speed over that of
one process times their number: on a machine with fewer cores than processes × threads it cannot be near 1. Memory is
each process's peak of resident memory beyond its imports, beside what `plan --memory` says; with a checkpoint's size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from tensloradist.compute import ComputeSpec
from tensloradist.identity import resolve
from tensloradist.memory import measure_step, needs
from tensloradist.spec import RunSpec
from tensloradist.tasks.examples import language_backbone, language_folder

MiB = 2**20
PEAK = Path(__file__).parents[1] / "memory" / "peak.py"
STRATEGIES = get_args(ComputeSpec.model_fields["strategy"].annotation)
EVALUATED = 12


def spec_of(folder: Path, arguments: argparse.Namespace, strategy: str, processes: int, batch: int) -> RunSpec:
    """A run of `--updates` updates of a decoder with random weights."""
    folder.mkdir(parents=True)
    sizes = {
        "hidden_size": arguments.hidden,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden // 64,
        "num_key_value_heads": arguments.hidden // 64,
        "intermediate_size": 4 * arguments.hidden,
    }
    examples = batch * arguments.updates
    task = language_folder(folder, train=examples * 10 // 9 + 2, test=EVALUATED)
    return resolve(
        RunSpec.model_validate(
            {
                "backbone": language_backbone(folder, **sizes).model_dump(),
                "task": {**task.model_dump(), "train_examples": examples},
                "adapter": {"grouping": "qkv_depth"},
                "optimizer": {"epochs": 1, "batch_size": batch},
                "precision": arguments.precision,
                "compute": {
                    "device": arguments.device,
                    "threads": arguments.threads,
                    "strategy": strategy,
                    "processes": processes,
                    "checkpoint_steps": max(1, arguments.updates - 1),
                },
            }
        )
    )


def started(script: list[str], processes: int, threads: int) -> None:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": "131072"}
    subprocess.run([*command, *script], check=True, env=environment, stdout=subprocess.DEVNULL)


def trained(spec: RunSpec, folder: Path, threads: int) -> dict:
    """The times of a run's result."""
    (folder / "run.yaml").write_text(spec.model_dump_json())  # JSON is YAML
    script = ["-m", "tensloradist.cli", "run", str(folder / "run.yaml"), "--results", str(folder / "results")]
    started(script, spec.compute.processes, threads)
    (path,) = (folder / "results").glob("runs/*/result.json")
    return json.loads(path.read_text())["times"]


def scaling(arguments: argparse.Namespace, root: Path) -> Table:
    table = Table(title=f"strong and weak scaling, {arguments.device}, {arguments.threads} threads a process")
    for column in (
        "scaling",
        "processes",
        "batch",
        "step s",
        "samples/s",
        "tokens/s",
        "efficiency",
        "communication",
        "MFU",
    ):
        table.add_column(column, justify="left" if column == "scaling" else "right")
    for kind in ("strong", "weak"):
        base = None
        for processes in arguments.processes:
            batch = arguments.batch * (processes if kind == "weak" else 1)
            folder = root / f"{kind}-{processes}"
            strategy = "single" if processes == 1 else arguments.strategy
            times = trained(spec_of(folder, arguments, strategy, processes, batch), folder, arguments.threads)
            speed, throughput = times["samples_per_second"], times["throughput"]
            base = base or speed / processes
            share, mfu = throughput["communication_share"], throughput["model_flops_utilization"]
            table.add_row(
                kind,
                str(processes),
                str(batch),
                f"{times['step_seconds']:.3f}",
                f"{speed:.1f}",
                f"{throughput['tokens_per_second']:.0f}",
                f"{speed / processes / base:.0%}",
                "-" if share is None else f"{share:.1%}",
                "-" if mfu is None else f"{mfu:.1%}",
            )
            print(f"{kind} scaling, {processes} processes: {speed:.1f} samples a second", file=sys.stderr, flush=True)
    return table


def size_of(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory(arguments: argparse.Namespace, root: Path) -> Table:
    table = Table(
        title="memory of the first process and of the largest other, MiB beyond the imports, beside the plan's"
    )
    columns = ("first", "planned", "error", "others", "planned", "error", "checkpoint kB")
    for column in ("strategy", "processes", *columns):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for strategy in arguments.strategies:
        for processes in arguments.processes:
            if (strategy == "single" and processes > 1) or (strategy == "ddp" and processes == 1):
                continue
            folder = root / f"{strategy}-{processes}"
            spec = spec_of(folder, arguments, strategy, processes, arguments.batch)
            (folder / "spec.json").write_text(spec.model_dump_json())
            started([str(PEAK), str(folder / "spec.json"), str(folder / "run")], processes, arguments.threads)
            peaks = [int((folder / "run" / f"peak.{rank}").read_text()) for rank in range(processes)]
            found = needs(measure_step(spec, -(-arguments.batch // processes)), [processes], [strategy])
            numbers = []
            # ZeRO of one process is measured, and not planned.
            planned = [found[0].first_on_cpu, found[0].on_cpu] if found else [None, None]
            for peak, plan in zip((peaks[0], max(peaks[1:], default=None)), planned, strict=True):
                numbers += ["-" if value is None else f"{value / MiB:,.0f}" for value in (peak, plan)]
                numbers.append("-" if peak is None or plan is None else f"{plan / peak - 1:+.0%}")
            checkpoint = size_of(next((folder / "run").glob("*/checkpoints/*")))
            table.add_row(strategy, str(processes), *numbers, f"{checkpoint / 1000:,.0f}")
            print(f"memory, {strategy}, {processes} processes: {numbers[0]} MiB", file=sys.stderr, flush=True)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--strategy", default="ddp", choices=STRATEGIES[1:], help="of several processes, for scaling")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES, help="for memory")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="examples an update (weak scaling: a process)")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--only", choices=["scaling", "memory"])
    arguments = parser.parse_args()
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "memory":
            console.print(scaling(arguments, Path(folder)))
        if arguments.only != "scaling" and arguments.device == "cpu":
            console.print(memory(arguments, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
