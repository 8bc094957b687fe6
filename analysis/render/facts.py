"""The facts about one cell as sentences, shared by the report and `explain`."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.explanation import Explanation
from analysis.model import Cell, Paired
from analysis.render import text


def facts(explanation: Explanation) -> list[str]:
    """What the cell's number is and how it was obtained, from the parameters to the hardware."""
    cell, row = explanation.cell, explanation.row
    sentences = [f"{row.parameters:,} adapter parameters ({row.ranks or 'no ranks'})."]
    if explanation.block.condition.kind == "isoparameter" and not row.is_reference:
        beyond = ", beyond the tolerance, so neither bold nor ranked" if row.beyond_budget else ""
        sentences.append(f"{text.points(row.residual, plus=True, digits=2)} % off the budget of LoRA{beyond}.")
    sentences += _mean(cell)
    if cell.difference is not None:
        sentences += _difference(cell.difference)
    elif cell.no_difference:
        sentences.append(f"Not compared with LoRA because {cell.no_difference}.")
    provenance = ("hardware", "precision", "versions", "environment", "plugins", "commit")
    where = [line for name in provenance if (line := _values(name, (getattr(run, name) for run in explanation.runs)))]
    return [*sentences, f"Trained with {'; '.join(where)}."] if where else sentences


def _mean(cell: Cell) -> list[str]:
    if len(cell.scores) == 1:
        return ["One seed: no interval."]
    if cell.estimate is None or cell.estimate.interval is None:
        return []
    interval = cell.estimate.interval
    return [
        f"Mean of {len(cell.scores)} seeds; 95 % interval ({interval.method.label}) "
        f"{text.points(interval.low, digits=2)} to {text.points(interval.high, digits=2)}."
    ]


def _difference(paired: Paired) -> list[str]:
    if paired.p is None:
        test = f"not tested because {paired.untested}; this difference covers the other seeds only"
    else:
        test = f"sign-flip test p = {paired.p:.3g}"
        test += "" if paired.p_holm is None else f", {paired.p_holm:.3g} after Holm's correction"
        test += f"; the corrected test needs {paired.seeds_needed} seeds to reach 5 %" if paired.seeds_needed else ""
    effect = text.points(paired.effect, plus=True, digits=2) + text.bracketed(paired.interval, digits=2)
    seeds = f"{paired.n} common seed{'s' if paired.n > 1 else ''}"
    sentences = [f"Difference to LoRA over {seeds}: {effect} points; {test}."]
    same = paired.equivalence
    if same.probability is not None:
        sentences.append(
            f"Probability {same.probability:.2f} that the difference lies within ± {100 * same.margin:g} points (two "
            f"one-sided tests: p = {same.p_tost:.3g})."
        )
    elif same.undefined:
        sentences.append(f"Equivalence is undefined: {same.undefined}.")
    return sentences


def _values(name: str, values: Iterable[str | None]) -> str:
    distinct = sorted({value for value in values if value})
    return f"{name} {' and '.join(distinct)}" if distinct else ""
