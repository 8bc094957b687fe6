"""The parameters of groupings or presets on one backbone: at one rank, and at the ranks that match a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensloradist.budget import count, isoparameter, isorank, lora_budget, resolve_ranks, surplus_ranks
from tensloradist.errors import UserError, unknown
from tensloradist.factorizations import of_groupings
from tensloradist.known_shapes import KNOWN_SHAPES
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.plugins import load_plugins
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec
from tensloradist.terminal import say, say_json, terminal


@dataclass(frozen=True, kw_only=True)
class ParameterTable:
    """A row for LoRA and for each member.

    Attributes:
        rank: LoRA's, and that of every mode under isorank.
        budget: the number of parameters to match.
        rows: plain values: 'method', 'isorank' (parameters), 'ranks' (that match the budget), 'isoparameter' (their
            parameters) and 'residual' (relative to the budget); 'method' and 'error' for a member that does not fit.
        notes: sentences about ranks that exceed their mode, with the methods concerned.
    """

    rank: int
    budget: int
    strategy: str
    rows: list[dict[str, Any]]
    notes: list[str]


def attention_shape(
    name: str | None,
    *,
    d_in: int | None = None,
    d_out: int | None = None,
    heads: int | None = None,
    layers: int | None = None,
    kv_heads: int | None = None,
) -> AttentionShape:
    """The shape of a known backbone, or the one that these sizes make.

    Raises:
        UserError: an unknown name, or no name and too few sizes.
    """
    if name is not None:
        if name not in KNOWN_SHAPES:
            raise unknown("shape", name, KNOWN_SHAPES)
        d_in, heads, layers = KNOWN_SHAPES[name]
        return AttentionShape(d_in, d_in, heads, layers)
    if d_in is None or heads is None or layers is None:
        raise UserError("give --shape, or --d-in, --heads and --layers")
    return AttentionShape(d_in, d_out or d_in, heads, layers, kv_heads=kv_heads)


def members(factorization: str, plugins: list[str] | None = None, presets: bool = False) -> dict[str, AdapterSpec]:
    """The adapters to compare, by name: all groupings in one factorization, or all presets.

    Raises:
        UserError: an unknown factorization, or a plugin that cannot be imported.
    """
    load_plugins(plugins or [])
    if factorization not in of_groupings():
        raise unknown("factorization", factorization, of_groupings())
    if presets:
        return {name: AdapterSpec(method=name) for name in PRESETS}
    return {
        grouping: AdapterSpec.model_validate({"grouping": grouping, "factorization": factorization})
        for grouping in GROUPINGS
    }


def parameter_table(
    adapters: Mapping[str, AdapterSpec],
    shape: AttentionShape,
    rank: int,
    budget: int | None = None,
    strategy: str = "balanced",
) -> ParameterTable:
    """Count LoRA's and each adapter's parameters, and solve for the ranks that match the budget.

    Args:
        budget: None for the parameters of LoRA at this rank.
    """
    lora = lora_budget(shape, rank)
    target = budget or lora
    ranks = {"input": rank, "output": rank}
    rows = [_row("lora", lora, ranks, lora, target)]
    notes = {surplus_ranks(AdapterSpec(method="lora", ranks=rank), shape): ["lora"]}
    for name, adapter in adapters.items():
        try:
            same = isorank(adapter, rank, shape)
            notes.setdefault(surplus_ranks(same, shape), []).append(name)
            solved = isoparameter(adapter, target, shape, strategy)
        except UserError as error:
            rows.append({"method": name, "error": str(error)})
        else:
            rows.append(_row(name, count(same, shape), resolve_ranks(solved, shape), count(solved, shape), target))
    sentences = [f"{', '.join(names)}: {note}" for note, names in notes.items() if note is not None]
    return ParameterTable(rank=rank, budget=target, strategy=strategy, rows=rows, notes=sentences)


def _row(method: str, isorank: int, ranks: Mapping[str, int], isoparameter: int, target: int) -> dict[str, Any]:
    return {
        "method": method,
        "isorank": isorank,
        "ranks": dict(ranks),
        "isoparameter": isoparameter,
        "residual": isoparameter / target - 1,
    }


def show(table: ParameterTable, json: bool = False) -> None:
    """Print the table, or its budget and rows as JSON."""
    if json:
        say_json({"budget": table.budget, "rows": table.rows})
        return
    from rich.table import Table

    title = f"isorank r={table.rank}, and ranks for {table.budget:,} parameters ({table.strategy})"
    shown = Table("method", title=title)
    shown.add_column(f"all ranks {table.rank}", justify="right")
    shown.add_column("solved ranks")
    for name in ("parameters", "residual"):
        shown.add_column(name, justify="right")
    for row in table.rows:
        if "error" in row:
            shown.add_row(row["method"], "-", row["error"], "-", "-")
            continue
        ranks = ", ".join(f"{mode} {value}" for mode, value in row["ranks"].items())
        parameters, residual = f"{row['isoparameter']:,}", f"{100 * row['residual']:+.2f} %"
        shown.add_row(row["method"], f"{row['isorank']:,}", ranks, parameters, residual)
    terminal(width=120).print(shown)
    say(*(f"note: {note}" for note in table.notes))
