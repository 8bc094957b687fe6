"""The commands of one run and of adapters: `run`, `evaluate`, `export`, `params` and `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tensloradist.factorizations import DEFAULT_FACTORIZATION, of_groupings
from tensloradist.known_shapes import KNOWN_SHAPES
from tensloradist.options import (
    BEFORE,
    ONE_RUN,
    FileArgument,
    JsonOption,
    PluginOption,
    ResultsOption,
    RunFolderArgument,
    add,
)


def run(
    spec: Annotated[Path, typer.Argument(help="A run's YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="field=value, such as optimizer.learning_rate=1e-3")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Train one run and publish its result.

    A run that has a result already is left alone. Ctrl-C stops it with a checkpoint; the same command then goes on.

    \b
    Examples:
        tensloradist run run.yaml
        tensloradist run run.yaml adapter.grouping=qkv_depth optimizer.learning_rate=1e-3 seed=1

    Exit code: 0 for a result, 1 when the run failed, 2 for a mistake in the file, 130 after Ctrl-C.
    """
    from tensloradist.one_run import train_one

    if code := train_one(spec, overrides or [], results):
        raise typer.Exit(code)


def evaluate(
    run_folder: RunFolderArgument,
    data: Annotated[
        str | None, typer.Option(help="Other data in the form of the run's task [its own test part].")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a finished run again, also on other data.

    Without --data on its own test part, which gives the published scores; else on all examples of the data.

    \b
    Examples:
        tensloradist evaluate results/runs/0123456789abcdef
        tensloradist evaluate results/runs/0123456789abcdef --data photographs/
    """
    from tensloradist.evaluation import evaluate_run, show

    show(evaluate_run(run_folder, data), json)


def export(
    run_folder: RunFolderArgument,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to create; it may exist if it is empty.")],
    to: Annotated[str, typer.Option("--to", help="peft: a LoRA checkpoint; merged: a plain checkpoint.")] = "peft",
) -> None:
    """Export a finished run as a LoRA of PEFT, or merged.

    Both are exact. A LoRA loads with peft.PeftModel.from_pretrained(backbone, DIR), a merged checkpoint with
    from_pretrained(DIR) of transformers or timm.create_model("local-dir:DIR", pretrained=True).

    \b
    Examples:
        tensloradist export results/runs/0123456789abcdef --to peft my_lora
        tensloradist export results/runs/0123456789abcdef --to merged my_model
    """
    from tensloradist.terminal import say, terminal

    with terminal(stderr=True).status("loading the backbone and exporting"):
        from tensloradist.export import export_run

        notes = export_run(run_folder, to, target)
    say(*(f"note: {note}" for note in notes), stderr=True)
    say(f"written: {target}")


def params(
    shape: Annotated[str | None, typer.Option(help=f"A known backbone: {', '.join(KNOWN_SHAPES)}.")] = None,
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
    plugin: PluginOption = None,
    presets: Annotated[bool, typer.Option("--presets", help="Published related methods instead of groupings.")] = False,
    json: JsonOption = False,
) -> None:
    """Count parameters of groupings, and match LoRA's number.

    For every grouping: its parameters when all modes have the rank, and the ranks whose parameters come closest to
    LoRA's at that rank, or to --budget.

    \b
    Examples:
        tensloradist params --shape vit_base --rank 4
        tensloradist params --d-in 4096 --heads 32 --kv-heads 8 --layers 32 --rank 8 --strategy uniform
        tensloradist params --shape vit_base --factorization tt
        tensloradist params --shape vit_base --presets
    """
    from tensloradist.parameter_table import attention_shape, members, parameter_table, show

    sizes = attention_shape(shape, d_in=d_in, d_out=d_out, heads=heads, layers=layers, kv_heads=kv_heads)
    show(parameter_table(members(factorization, plugin, presets), sizes, rank, budget, strategy), json)


def fetch(source: FileArgument) -> None:
    """Download what a sweep needs; its jobs then run offline.

    Backbones and data are fetched at pinned revisions, and the data is decoded or tokenised once.

    \b
    Example:
        tensloradist fetch my_sweep.yaml
    """
    from tensloradist.fetching import fetch_sweep
    from tensloradist.terminal import say

    for line in fetch_sweep(source):
        say(line)
    say("everything is available offline")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add(app, BEFORE, params, fetch)
    add(app, ONE_RUN, run, evaluate, export)
