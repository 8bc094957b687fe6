"""The commands of one run: run, evaluate, fetch, params. Each imports what it needs when it is called."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")
]
SHAPES = {
    "vit_base": (768, 12, 12),
    "roberta_base": (768, 12, 12),
    "vit_large": (1024, 16, 24),
    "roberta_large": (1024, 16, 24),
    "deit_tiny": (192, 3, 12),
    "minilm_l6": (384, 12, 6),
}


def run(
    spec: Annotated[Path, typer.Argument(help="A run's YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="field=value, such as optimizer.learning_rate=1e-3")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Train one run and publish its result; a run that has a result already is left alone.

    Examples:

        tensloradist run run.yaml

        tensloradist run run.yaml adapter.grouping=qkv_depth optimizer.learning_rate=1e-3 seed=1
    """
    import os

    from tensloradist import backbones
    from tensloradist.budget import count
    from tensloradist.config import load_run_spec
    from tensloradist.errors import UserError
    from tensloradist.identity import resolve
    from tensloradist.plugins import load_plugins
    from tensloradist.results.execute import execute
    from tensloradist.results.layout import RunFolder, results_root

    parsed = load_run_spec(spec, overrides or [])
    load_plugins(parsed.plugins)
    resolved, root = resolve(parsed), results_root(results)
    folder = RunFolder(root, resolved.run_id)
    if folder.result.exists():
        typer.echo(f"run {folder.run_id} has a result already: {folder.result}")
        return
    # An adapter that cannot be is refused before anything is claimed.
    count(resolved.adapter, backbones.shape_of(resolved.backbone, resolved.adapter.projections))
    from tensloradist.training import train

    if int(os.environ.get("RANK", "0")) > 0:  # only the first process claims and publishes
        train(resolved, None)
        return
    typer.echo(f"run {folder.run_id} in {folder.path}")
    with _Progress() as progress:
        outcome = execute(resolved, root, train, progress.show)
    if outcome.status == "busy":
        raise UserError(f"run {folder.run_id} is being trained by another process; its claim is in {folder.path}")
    if outcome.failure is not None:
        if outcome.failure.cause in ("configuration", "data_missing"):
            raise UserError(outcome.failure.message)
        typer.echo(
            f"failed ({outcome.failure.cause}): {outcome.failure.message}\n{outcome.failure.traceback}", err=True
        )
        raise typer.Exit(1)
    assert outcome.result is not None
    metrics = outcome.result.metrics
    shown = ", ".join(
        f"{name} {value:.4f}" if value is not None else f"{name} undefined" for name, value in metrics.test.items()
    )
    typer.echo(
        f"{outcome.status}: test {shown}; {outcome.result.adapter_parameters:,} adapter parameters, "
        f"{outcome.result.times.total_seconds:.0f} s; {folder.result}"
    )


class _Progress:
    """What the parts are, on standard output; a bar on a terminal, a line an epoch elsewhere, on standard error."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import Progress

        self.console = Console(stderr=True)
        self.bar = Progress(console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bar.start()
        self.job = self.bar.add_task("training", total=None)
        return self

    def show(self, record: dict[str, Any]) -> None:
        if "parts" in record:
            typer.echo(record["parts"])
        elif "loss" in record:
            self.bar.update(
                self.job,
                completed=record["step"],
                total=record["steps"],
                description=f"epoch {record['epoch']}, loss {record['loss']:.3f}",
            )
        else:
            values = ", ".join(f"{k} {v:.4f}" for k, v in record["validation"].items() if v is not None)
            self.console.print(f"epoch {record['epoch']}: validation {values}", highlight=False)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, results/runs/ID.")],
    data: Annotated[
        str | None, typer.Option(help="Other data in the form of the run's task [its own test part].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Evaluate a finished run again: on its own test part, or on all examples of other data.

    Examples:

        tensloradist evaluate results/runs/0123456789abcdef

        tensloradist evaluate results/runs/0123456789abcdef --data photographs/
    """
    from tensloradist.evaluation import evaluate_run

    found = evaluate_run(run_folder, data)
    if json:
        typer.echo(json_.dumps(found, indent=1))
        return
    typer.echo(f"run {found['run_id']} on {found['data']}, {found['examples']} examples:")
    for name, value in found["metrics"].items():
        typer.echo(f"  {name} {value:.4f}" if value is not None else f"  {name} undefined")


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, results/runs/ID.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; it must not exist.")],
    to: Annotated[str, typer.Option("--to", help="peft: a LoRA checkpoint; merged: a plain checkpoint.")] = "peft",
) -> None:
    """Export a finished run's adapter and head, without loss: as a LoRA of PEFT, or merged into its backbone.

    A LoRA loads with peft.PeftModel.from_pretrained(backbone, DIR), a merged checkpoint with from_pretrained(DIR) of
    transformers or timm.create_model("local-dir:DIR", pretrained=True).

    Examples:

        tensloradist export results/runs/0123456789abcdef --to peft my_lora

        tensloradist export results/runs/0123456789abcdef --to merged my_model
    """
    from rich.console import Console

    with Console(stderr=True).status("loading the backbone and exporting"):
        from tensloradist.export import export_run

        export_run(run_folder, to, target)
    typer.echo(f"written: {target}")


def fetch(
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep or run file, or a shipped sweep.")],
) -> None:
    """Download what a sweep needs, at pinned revisions, and decode or tokenise it once; jobs then run offline.

    Example:

        tensloradist fetch my_sweep.yaml
    """
    from tensloradist import backbones
    from tensloradist.config import expand_paths, read_sweep
    from tensloradist.identity import resolve
    from tensloradist.plugins import load_plugins
    from tensloradist.shipped import find_shipped
    from tensloradist.spec import RunSpec
    from tensloradist.tasks import task_named
    from tensloradist.validation import validate

    path = find_shipped("sweeps", source)
    data = expand_paths(read_sweep(path), path.absolute().parent)
    load_plugins(data.get("plugins", []))
    for backbone in _parts(data.get("backbone", {})):
        for task in _parts(data.get("task", {})):
            for protocol in _values(data.get("protocol", "sound")):
                fields = {"backbone": backbone, "task": task, "protocol": protocol, "adapter": {"method": "lora"}}
                spec = resolve(validate(RunSpec, fields, str(path)))
                for line in backbones.fetch(spec.backbone):
                    typer.echo(line)
                for line in task_named(spec.task.name).fetch(spec.task, spec.backbone, spec.protocol):
                    typer.echo(line)
    typer.echo("everything is available offline")


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parts(section: Any) -> list[dict[str, Any]]:
    """Every combination of a section's values: what a sweep's axes may ask for."""
    from itertools import product

    return [
        dict(zip(part, values, strict=True))
        for part in _values(section)
        for values in product(*(_values(value) for value in part.values()))
    ]


def params(
    shape: Annotated[str | None, typer.Option(help=f"A known backbone shape: {', '.join(SHAPES)}.")] = None,
    d_in: Annotated[int | None, typer.Option(help="Input features of query, key and value.")] = None,
    d_out: Annotated[int | None, typer.Option(help="Output features of the query [d_in].")] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads.")] = None,
    layers: Annotated[int | None, typer.Option(help="Attention layers.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Key/value heads [heads].")] = None,
    rank: Annotated[int, typer.Option(min=1, help="LoRA's rank, and the rank of every mode under isorank.")] = 4,
    budget: Annotated[int | None, typer.Option(min=1, help="Parameters to match [LoRA's at --rank].")] = None,
    strategy: Annotated[str, typer.Option(help="balanced or uniform.")] = "balanced",
    factorization: Annotated[str, typer.Option(help="tucker, cp or tt: of the groupings.")] = "tucker",
    presets: Annotated[bool, typer.Option("--presets", help="The published neighbours instead of groupings.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Count the parameters of every grouping at a rank, and solve for the ranks that match LoRA's budget.

    Examples:

        tensloradist params --shape vit_base --rank 4

        tensloradist params --d-in 4096 --heads 32 --kv-heads 8 --layers 32 --rank 8 --strategy uniform

        tensloradist params --shape vit_base --factorization tt

        tensloradist params --shape vit_base --presets
    """
    from tensloradist.budget import count, isoparameter, isorank, lora_budget, resolve_ranks
    from tensloradist.errors import UserError, unknown
    from tensloradist.modes import GROUPINGS, AttentionShape
    from tensloradist.presets import PRESETS
    from tensloradist.spec import AdapterSpec

    if shape is not None:
        if shape not in SHAPES:
            raise unknown("shape", shape, SHAPES)
        width, n_heads, n_layers = SHAPES[shape]
        sizes = AttentionShape(width, width, n_heads, n_layers)
    elif d_in is None or heads is None or layers is None:
        raise UserError("give --shape, or --d-in, --heads and --layers")
    else:
        sizes = AttentionShape(d_in, d_out or d_in, heads, layers, kv_heads=kv_heads)
    target = budget or lora_budget(sizes, rank)
    rows = [
        {
            "method": "lora",
            "isorank": lora_budget(sizes, rank),
            "ranks": {"input": rank, "output": rank},
            "isoparameter": lora_budget(sizes, rank),
            "residual": lora_budget(sizes, rank) / target - 1,
        }
    ]
    if factorization not in ("tucker", "cp", "tt"):
        raise unknown("factorization", factorization, ("tucker", "cp", "tt"))
    members = (
        {name: AdapterSpec(method=name) for name in PRESETS}
        if presets
        else {
            grouping: AdapterSpec.model_validate({"grouping": grouping, "factorization": factorization})
            for grouping in GROUPINGS
        }
    )
    for name, adapter in members.items():
        try:
            solved = isoparameter(adapter, target, sizes, strategy)
        except UserError as error:
            rows.append({"method": name, "error": str(error)})
            continue
        rows.append(
            {
                "method": name,
                "isorank": count(isorank(adapter, rank, sizes), sizes),
                "ranks": resolve_ranks(solved, sizes),
                "isoparameter": count(solved, sizes),
                "residual": count(solved, sizes) / target - 1,
            }
        )
    if json:
        typer.echo(json_.dumps({"budget": target, "rows": rows}, indent=1))
        return
    _print_params(rows, target, rank, strategy)


def _print_params(rows: list[dict[str, Any]], target: int, rank: int, strategy: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(title=f"isorank r={rank}, and ranks for {target:,} parameters ({strategy})")
    for name, justify in (
        ("method", "left"),
        (f"all ranks {rank}", "right"),
        ("solved ranks", "left"),
        ("parameters", "right"),
        ("residual", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        if "error" in row:
            table.add_row(row["method"], "-", row["error"], "-", "-")
            continue
        ranks = ", ".join(f"{mode} {value}" for mode, value in row["ranks"].items())
        table.add_row(
            row["method"], f"{row['isorank']:,}", ranks, f"{row['isoparameter']:,}", f"{100 * row['residual']:+.2f} %"
        )
    console.print(table)
