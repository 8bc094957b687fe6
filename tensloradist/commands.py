"""The commands of one run: run, evaluate, fetch, params. Each imports what it needs when it is called."""

from __future__ import annotations

import json as json_
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tensloradist.factorizations import DEFAULT_FACTORIZATION, of_groupings
from tensloradist.terminal import terminal

if TYPE_CHECKING:
    from tensloradist.results.execute import Outcome
    from tensloradist.results.layout import RunFolder
    from tensloradist.results.standing import Standing
    from tensloradist.spec import RunSpec

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

    Ctrl-C stops it with a checkpoint, from which the same command goes on.

    Examples:

        tensloradist run run.yaml

        tensloradist run run.yaml adapter.grouping=qkv_depth optimizer.learning_rate=1e-3 seed=1
    """
    from tensloradist import backbones
    from tensloradist.budget import count, surplus_ranks
    from tensloradist.config import load_run_spec
    from tensloradist.environment import process_index
    from tensloradist.errors import UserError
    from tensloradist.identity import resolve
    from tensloradist.results.layout import RunFolder, results_root
    from tensloradist.results.publish import recover_broken
    from tensloradist.results.standing import standing
    from tensloradist.trackers import require_trackers

    resolved, root = resolve(load_run_spec(spec, overrides or [])), results_root(results)
    folder = RunFolder(root, resolved.run_id)
    is_first = process_index() == 0
    if is_first:
        recover_broken(folder)
    found = standing(folder) if is_first else _foreseen(folder)
    if found.is_over:
        typer.echo(f"run {folder.run_id} has a result already: {folder.result}")
        return
    if found.is_left_alone or found.state == "broken":
        raise UserError(found.problems[0])
    # An adapter that cannot be is refused before anything is claimed.
    shape = backbones.shape_of(resolved.backbone, resolved.adapter.projections)
    count(resolved.adapter, shape)
    require_trackers(resolved.compute.log_with)
    if not is_first:
        _follow(resolved)
        return
    typer.echo(f"run {folder.run_id} in {folder.path}")
    surplus = surplus_ranks(resolved.adapter, shape)
    if surplus is not None:
        typer.echo(f"note: {surplus}")
    outcome = _train_here(resolved, root, _command(spec, overrides or [], results, resolved.compute.processes))
    _say_outcome(outcome, folder)


def _foreseen(folder: RunFolder) -> Standing:
    """What the first process of a run, which alone sets a damaged result aside, finds after that."""
    from tensloradist.results.publish import read_result, sound_attempt
    from tensloradist.results.standing import Standing, standing

    found = standing(folder)
    if found.state != "broken":
        return found
    if (attempt := sound_attempt(folder)) is not None:
        result = read_result(folder.attempt(attempt) / "result.json")
        return Standing(result.state, result)
    # Without a result, it is set aside by now, or it is the claim that is damaged.
    return Standing("open") if folder.result.exists() else standing(folder)


def _say_outcome(outcome: Outcome, folder: RunFolder) -> None:
    """The scores, or the end of the command: by a UserError or an exit code."""
    from tensloradist.errors import UserError

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


def _command(spec: Path, overrides: list[str], results: Path | None, processes: int) -> str:
    """What a user types to go on."""
    start = [f"torchrun --nproc_per_node {processes} -m tensloradist"] if processes > 1 else ["tensloradist"]
    place = ["--results", str(results)] if results is not None else []
    return " ".join([*start, shlex.join(["run", str(spec), *overrides, *place])])


def _train_here(resolved: RunSpec, root: Path, go_on: str) -> Outcome:
    """Train in the foreground; an interrupted run says how to go on, and ends the command."""
    from tensloradist.foreground import Interruption, Progress
    from tensloradist.results.attempts import read_attempt
    from tensloradist.results.checkpoints import kept_step
    from tensloradist.results.control import RunControl
    from tensloradist.results.execute import execute
    from tensloradist.results.jobs import current_job
    from tensloradist.results.layout import RunFolder
    from tensloradist.training import train

    def started(attempt: Path) -> None:
        record = read_attempt(attempt)
        if record is not None and record.resumed_from is not None:
            typer.echo(f"goes on after step {record.resumed_from.step}, from attempt {record.resumed_from.attempt}")

    control = RunControl()
    try:
        with Interruption(control), Progress() as progress:
            trained = partial(train, keep=False)
            outcome = execute(resolved, root, trained, progress.show, started, control=control, job=current_job())
        # Without a request, it was ended because another process has taken the run over.
        interrupted = outcome.failure is not None and control.stop_reason is not None
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        kept = kept_step(RunFolder(root, resolved.run_id))
        of = f" of {progress.steps}" if progress.steps else ""
        where = f"step {kept}{of} is kept, and it goes on from there" if kept else "nothing is kept, and it starts anew"
        typer.echo(f"interrupted: {where} with\n  {go_on}", err=True)
        raise typer.Exit(130)
    return outcome


def _follow(resolved: RunSpec) -> None:
    """Take part as one of several processes but the first, which alone claims and publishes."""
    from tensloradist.foreground import Interruption
    from tensloradist.results.control import RunControl, Stopped
    from tensloradist.training import train

    control = RunControl()
    try:
        with Interruption(control, speaks=False):
            train(resolved, None, control=control)
    except (KeyboardInterrupt, Stopped):
        raise typer.Exit(130) from None


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
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; an empty one may be there.")],
    to: Annotated[str, typer.Option("--to", help="peft: a LoRA checkpoint; merged: a plain checkpoint.")] = "peft",
) -> None:
    """Export a finished run's adapter and head, without loss: as a LoRA of PEFT, or merged into its backbone.

    A LoRA loads with peft.PeftModel.from_pretrained(backbone, DIR), a merged checkpoint with from_pretrained(DIR) of
    transformers or timm.create_model("local-dir:DIR", pretrained=True).

    Examples:

        tensloradist export results/runs/0123456789abcdef --to peft my_lora

        tensloradist export results/runs/0123456789abcdef --to merged my_model
    """

    with terminal(stderr=True).status("loading the backbone and exporting"):
        from tensloradist.export import export_run

        notes = export_run(run_folder, to, target)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
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
    factorization: Annotated[
        str, typer.Option(help=f"Of the groupings: {', '.join(of_groupings())}, or one of a plugin.")
    ] = DEFAULT_FACTORIZATION,
    plugin: Annotated[list[str] | None, typer.Option(help="A module that adds a factorization; repeatable.")] = None,
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
    from tensloradist.budget import count, isoparameter, isorank, lora_budget, resolve_ranks, surplus_ranks
    from tensloradist.errors import UserError, unknown
    from tensloradist.modes import GROUPINGS, AttentionShape
    from tensloradist.plugins import load_plugins
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
    load_plugins(plugin or [])
    if factorization not in of_groupings():
        raise unknown("factorization", factorization, of_groupings())
    members = (
        {name: AdapterSpec(method=name) for name in PRESETS}
        if presets
        else {
            grouping: AdapterSpec.model_validate({"grouping": grouping, "factorization": factorization})
            for grouping in GROUPINGS
        }
    )
    notes: dict[str | None, list[str]] = {surplus_ranks(AdapterSpec(method="lora", ranks=rank), sizes): ["lora"]}
    for name, adapter in members.items():
        try:
            notes.setdefault(surplus_ranks(isorank(adapter, rank, sizes), sizes), []).append(name)
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
    for note, names in notes.items():
        if note is not None:
            typer.echo(f"note: {', '.join(names)}: {note}")


def _print_params(rows: list[dict[str, Any]], target: int, rank: int, strategy: str) -> None:
    from rich.table import Table

    console = terminal(width=120)
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
