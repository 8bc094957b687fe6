"""`plan --memory`: the memory of a process under every strategy, for each distinct model and batch of a sweep."""

from __future__ import annotations

import json as json_
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch.planning.sweep_file import PlannedRun, Sweep, load_sweep
from tensloradist.errors import UserError
from tensloradist.memory import STRATEGIES, Need, gpu_bytes, measure_step, needs, recommend
from tensloradist.terminal import terminal

GiB = 2**30


@dataclass(frozen=True)
class MemoryPlan:
    """The needs of the runs that differ only by adapter, seed and rates; measured on the largest adapter.

    Attributes:
        device: whose rules the needs are planned by: cpu or cuda.
    """

    backbone: str
    task: str
    precision: str
    micro_batch: int
    device: Literal["cpu", "cuda"]
    needs: tuple[Need, ...]
    recommended: Need | None


def memory_plans(sweep: Sweep, processes: list[int], gpu: int | None) -> list[MemoryPlan]:
    """One plan for each backbone, task, precision, batch and device of the sweep.

    It is for a GPU if `gpu`, its memory in bytes, is given or the sweep asks for one, and for the CPU otherwise.
    Without `compute.micro_batch`, a process's share of the batch depends on the number of processes, so a step is
    traced for each number.
    """
    groups: dict[tuple[Any, ...], PlannedRun] = {}
    for run in sweep.runs:
        spec = run.spec
        size = spec.compute.micro_batch or spec.optimizer.batch_size
        device = "cuda" if gpu is not None or spec.compute.device == "cuda" else "cpu"
        divided = spec.compute.micro_batch is None
        key = (spec.backbone, spec.task, spec.protocol, device, spec.precision, size, divided)
        if key not in groups or run.adapter_parameters > groups[key].adapter_parameters:
            groups[key] = run
    plans = []
    for (*_, device, precision, size, divided), run in groups.items():
        found: list[Need] = []
        quantised = run.spec.backbone.quantization is not None
        offered = [name for name in STRATEGIES if not (quantised and name == "zero3")]  # it cannot shard such weights
        for world in processes:
            share = -(-size // world) if divided else size
            step = measure_step(run.spec, share, run.spec.compute.activation_checkpointing, device)
            found += needs(step, [world], offered)
        best = recommend(found, gpu) if gpu is not None else None
        plans.append(MemoryPlan(run.backbone, run.task, precision, size, device, tuple(found), best))
    return plans


def show(sweep: str, gpu: str | None, processes: str, json: bool) -> None:
    """Print the plans as tables, or as JSON. Raises UserError for an unknown GPU or invalid numbers of processes."""
    size = gpu_bytes(gpu) if gpu is not None else None
    worlds = _numbers(processes)
    with terminal(stderr=True).status("tracing a step of each model (the data is loaded)"):
        plans = memory_plans(load_sweep(sweep), worlds, size)
    if json:
        sys.stdout.write(json_.dumps([asdict(plan) for plan in plans], indent=1) + "\n")
        return
    console = terminal(width=160)
    for plan in plans:
        _print(console, plan, gpu, size)


def _numbers(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise UserError(f"--processes {text}: expected numbers from 1, such as 1,2,4,8")
    return found


def _print(console: Any, plan: MemoryPlan, gpu: str | None, size: int | None) -> None:
    from rich.table import Table

    what = f"micro-batch {plan.micro_batch}" if plan.needs else ""
    largest = max((need.total for need in plan.needs), default=0)
    unit, scale, digits = ("GiB", GiB, 2) if largest >= GiB else ("MiB", 2**20, 1)
    where = "on a GPU" if plan.device == "cuda" else "on the CPU"
    table = Table(title=f"{plan.backbone}, {plan.task}, {plan.precision}, {what}: {unit} a process {where}")
    columns = ("parameters", "gradients", "optimizer", "activations", "buffers", "total", "loaded")
    table.add_column("strategy")
    for name in ("processes", *columns, *(["fits"] if size is not None else [])):
        table.add_column(name, justify="right")
    for need in plan.needs:
        cells = [f"{getattr(need, name) / scale:.{digits}f}" for name in columns]
        fits = [] if size is None else ["yes" if need.fits(size) else "no"]
        table.add_row(need.strategy, str(need.processes), *cells, *fits)
    console.print(table)
    console.print(
        "loaded: the host's memory for the model as it is read, in float32, which a worker keeps for its next run of "
        "one process (on the CPU in bf16, beside the total); under zero3 the first process's alone.",
        highlight=False,
    )
    if gpu is None or size is None:
        if plan.device == "cpu":
            console.print("A GPU keeps other tensors than the CPU: plan for one with --gpu.", highlight=False)
        return
    if plan.recommended is None:
        console.print(
            f"Nothing fits {gpu} ({size / GiB:.0f} GiB, a tenth kept free): use a smaller compute.micro_batch, "
            "precision bf16, quantization, or more processes.",
            highlight=False,
        )
        return
    need = plan.recommended
    console.print(
        f"Recommended on {gpu}: strategy {need.strategy} with {need.processes} process"
        f"{'es' if need.processes > 1 else ''}, {need.total / scale:.{digits}f} {unit} each.",
        highlight=False,
    )


__all__ = ["MemoryPlan", "memory_plans", "show"]
