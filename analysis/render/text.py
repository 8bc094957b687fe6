"""The text of each cell, shared by all formats: scores × 100 with missing runs, and differences in points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from analysis.model import Block, Cell, Estimate, Interval, Overall, OverallRow, Row
from tensloradist.results.schema import Condition

MINUS = "−"
HEAD = (
    "Scores × 100: mean ± half the 95 % t interval over seeds; from 10 seeds on, the BCa bootstrap interval in "
    "brackets. The interval covers the randomness of training, not the sampling of test examples. Δ: paired difference "
    "to LoRA in points, with its 95 % interval; * significant at 5 % after Holm's correction; † not tested because "
    "runs diverged, so it covers the other seeds only. Bold: the best complete row within its budget."
)


def number(value: float, plus: bool = False, digits: int = 1) -> str:
    """'−0.3': with a true minus sign, but none before zero."""
    rounded = round(value, digits) + 0.0
    return (f"{rounded:+.{digits}f}" if plus and rounded else f"{rounded:.{digits}f}").replace("-", MINUS)


def points(value: float, plus: bool = False, digits: int = 1) -> str:
    """A fraction in points: '−0.3'."""
    return number(100 * value, plus, digits)


def bracketed(interval: Interval | None, digits: int = 1, factor: int = 100) -> str:
    """' [1.3, 5.6]' in points (or times another factor), or nothing without an interval."""
    if interval is None:
        return ""
    return f" [{', '.join(number(factor * end, digits=digits) for end in (interval.low, interval.high))}]"


def estimate(mean: Estimate | None) -> str:
    """'84.2 ± 1.3' or '84.2 [83.1, 85.0]', depending on the kind of its interval."""
    if mean is None:
        return "—"
    if mean.interval is not None and mean.interval.method.is_symmetric:
        return f"{points(mean.value)} ± {points(mean.interval.half_width)}"
    return points(mean.value) + bracketed(mean.interval)


def score(cell: Cell | None) -> str:
    """'84.2 ± 1.3', or with missing runs '84.2 (1/3 seeds, 2 failed)'."""
    if cell is None:
        return "refused"
    if not cell.planned:
        return "not planned"
    text = estimate(cell.estimate)
    missing = [f"{number} {state}" for state, number in sorted(cell.other.items()) if number]
    if not cell.is_complete or len(cell.scores) == 1:
        text += f" ({', '.join([f'{len(cell.scores)}/{cell.planned} seeds', *missing])})"
    return text


def difference(cell: Cell | None) -> str:
    """'+0.8 [−0.2, 1.8]', with * if the corrected p is at most 5 %, and † if it is untested because runs diverged."""
    if cell is None or cell.difference is None:
        return "not paired" if cell is not None and cell.is_unpaired else ""
    paired = cell.difference
    sign = "†" if paired.untested else "*" if paired.is_established else ""
    return points(paired.effect, plus=True) + bracketed(paired.interval) + sign


def parameters(row: Row, block: Block) -> str:
    """'4,608'; under isoparameter with the deviation from the budget, '4,460 (−3.2 %)'."""
    text = f"{row.parameters:,}"
    if block.condition.kind == "isoparameter" and not row.is_reference:
        text += f" ({points(row.residual, plus=True)} %)"
    return text


class Column(NamedTuple):
    """A column that each task has in the tables: its title, a cell's text, and the number to sort by."""

    title: Callable[[Block, str], str]
    text: Callable[[Cell | None], str]
    value: Callable[[Cell], float | None]


OF_TASK = (  # bold applies to the first
    Column(lambda block, task: f"{task} ({block.metrics[task]})", score, lambda cell: cell.mean),
    Column(
        lambda block, task: "Δ to LoRA", difference, lambda cell: cell.difference.effect if cell.difference else None
    ),
)


def header(block: Block) -> list[str]:
    return ["method", "parameters", *(column.title(block, task) for task in block.tasks for column in OF_TASK)]


def body(block: Block) -> list[list[str]]:
    """The table's lines."""
    return [
        [
            row.name,
            parameters(row, block),
            *(column.text(row.cells.get(task)) for task in block.tasks for column in OF_TASK),
        ]
        for row in block.rows
    ]


def bold(block: Block) -> set[tuple[int, int]]:
    """The (line, column) of each cell in bold."""
    return {
        (line, 2 + len(OF_TASK) * index)
        for line, row in enumerate(block.rows)
        for index, task in enumerate(block.tasks)
        if task in row.cells and row.cells[task].best
    }


def wrapped(lines: list[list[str]], places: set[tuple[int, int]], before: str, after: str) -> list[list[str]]:
    """The lines, with two strings around the cells at these places."""
    return [
        [f"{before}{cell}{after}" if (i, j) in places else cell for j, cell in enumerate(line)]
        for i, line in enumerate(lines)
    ]


def title(block: Block | Overall) -> str:
    budget = ""
    if block.condition.kind == "isoparameter":
        budget = f": as many parameters as LoRA r={block.condition.rank}, {block.condition.strategy} ranks"
    over = f", over {len(block.tasks)} tasks" if isinstance(block, Overall) else ""
    return f"{block.backbone}, {block.condition.name}{over}{budget}"


def series(condition: Condition) -> str:
    """A condition's name without its rank, such as 'isoparameter spectrum', for lines over ranks."""
    return condition.name.replace(f" r={condition.rank}", "", 1)


def is_empty(block: Block) -> bool:
    """Whether the block has no score at all; then a sentence is shown instead of a table."""
    return not any(cell.scores for _, _, cell in block.cells())


def emptiness(block: Block) -> str:
    """'No score yet: 18 runs missing, 2 failed.'"""
    states: Counter[str] = sum((cell.other for _, _, cell in block.cells()), Counter())
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"No score yet: {counts or 'every row is refused'}."


def has_overall(overall: Overall) -> bool:
    """Whether a table over tasks has anything to show."""
    return any(row.iqm or row.improvement or row.mean_rank is not None for row in overall.rows)


class OverallColumn(NamedTuple):
    """A column of a table over tasks: its title, a row's text, and the number to sort by."""

    title: str
    text: Callable[[OverallRow], str]
    value: Callable[[OverallRow], float | None]


def overall_columns(overall: Overall) -> list[OverallColumn]:
    """The columns of a table over tasks after the method's name, without empty ones."""
    scale = "normalised score" if any(row.normalised for row in overall.rows) else "score × 100"
    columns = (
        OverallColumn("parameters", lambda row: f"{row.parameters:,}", lambda row: row.parameters),
        OverallColumn(f"interquartile mean, {scale}", _iqm, lambda row: row.iqm.value if row.iqm else None),
        OverallColumn(
            "probability of improvement over LoRA",
            lambda row: _aggregate(row.improvement, 2),
            lambda row: row.improvement.value if row.improvement else None,
        ),
        OverallColumn(
            "mean rank",
            lambda row: "" if row.mean_rank is None else f"{row.mean_rank:.2f}",
            lambda row: row.mean_rank,
        ),
    )
    return [column for column in columns if any(column.text(row) for row in overall.rows)]


def overall_table(overall: Overall) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table over tasks."""
    columns = overall_columns(overall)
    lines = [[row.name, *(column.text(row) for column in columns)] for row in overall.rows]
    return ["method", *(column.title for column in columns)], lines


def _iqm(row: OverallRow) -> str:
    if row.normalised or row.iqm is None:
        return _aggregate(row.iqm, 2)
    return _aggregate(row.iqm.scaled(100), 1)


def _aggregate(aggregate: Estimate | None, digits: int) -> str:
    if aggregate is None:
        return ""
    return number(aggregate.value, digits=digits) + bracketed(aggregate.interval, digits, factor=1)
