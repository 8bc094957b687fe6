"""A cell's text, the same in every format: scores × 100, what is missing beside them, differences in points."""

from __future__ import annotations

from collections import Counter

from analysis.overall import Overall, OverallRow
from analysis.statistics.intervals import Estimate, Interval
from analysis.tables import Block, Cell, Row
from analysis.verdicts import is_established
from tensloradist.results.schema import Condition

MINUS = "−"
HEAD = (
    "Scores × 100: mean ± half the 95 % t interval over seeds (from 10 seeds on the BCa bootstrap interval, in "
    "brackets). It covers the randomness of training, not the sampling of test examples. Δ: paired difference to LoRA "
    "in points, with its 95 % interval; * differs at 5 % after Holm's correction; † is not tested, since runs "
    "diverged: it is the difference of the other seeds. Bold: the best of the complete ones."
)


def points(value: float, plus: bool = False, digits: int = 1) -> str:
    """A fraction in points, as '−0.3': a real minus, and none before zero."""
    rounded = round(100 * value, digits) + 0.0
    return (f"{rounded:+.{digits}f}" if plus and rounded else f"{rounded:.{digits}f}").replace("-", MINUS)


def bracketed(interval: Interval | None) -> str:
    """' [1.3, 5.6]', or nothing where there is no interval."""
    return "" if interval is None else f" [{points(interval.low)}, {points(interval.high)}]"


def score(cell: Cell | None) -> str:
    """'84.2 ± 1.3', and what is missing: '84.2 (1/3 seeds, 2 failed)'."""
    if cell is None:
        return "refused"
    if not cell.planned:
        return "not planned"
    text = "—" if cell.mean is None else points(cell.mean)
    if cell.interval is not None and cell.interval.method == "t":
        text += f" ± {points(cell.interval.half_width)}"
    else:
        text += bracketed(cell.interval)
    missing = [f"{number} {state}" for state, number in sorted(cell.other.items()) if number]
    if not cell.is_complete or len(cell.scores) == 1:
        text += f" ({', '.join([f'{len(cell.scores)}/{cell.planned} seeds', *missing])})"
    return text


def difference(cell: Cell | None) -> str:
    """'+0.8 [−0.2, 1.8]', with * where the corrected test is below 5 %, and † where runs diverged and none is made."""
    if cell is None or cell.difference is None:
        return "not paired" if cell is not None and "differ" in (cell.no_difference or "") else ""
    paired = cell.difference
    sign = "†" if paired.untested else "*" if is_established(paired) else ""
    return points(paired.effect, plus=True) + bracketed(paired.interval) + sign


def parameters(row: Row, block: Block) -> str:
    """'4,608', with the residual to the budget where there is one: '4,460 (−3.2 %)'."""
    text = f"{row.parameters:,}"
    if block.condition.kind == "isoparameter" and not row.is_reference:
        text += f" ({points(row.residual, plus=True)} %)"
    return text


def header(block: Block) -> list[str]:
    columns = ["method", "parameters"]
    for task in block.tasks:
        columns += [f"{task} ({block.metrics[task]})", "Δ to LoRA"]
    return columns


def body(block: Block) -> list[list[str]]:
    """The table's lines."""
    return [
        [
            row.name,
            parameters(row, block),
            *(f(row.cells.get(task)) for task in block.tasks for f in (score, difference)),
        ]
        for row in block.rows
    ]


def bold(block: Block) -> set[tuple[int, int]]:
    """(line, column) of what is best."""
    return {
        (line, 2 + 2 * index)
        for line, row in enumerate(block.rows)
        for index, task in enumerate(block.tasks)
        if (cell := row.cells.get(task)) is not None and cell.best
    }


def wrapped(lines: list[list[str]], places: set[tuple[int, int]], before: str, after: str) -> list[list[str]]:
    """The lines with the cells at the places between two strings."""
    return [
        [f"{before}{cell}{after}" if (i, j) in places else cell for j, cell in enumerate(line)]
        for i, line in enumerate(lines)
    ]


def title(block: Block | Overall) -> str:
    budget = ""
    if block.condition.kind == "isoparameter":
        budget = f": the parameters of LoRA r={block.condition.rank}, {block.condition.strategy} ranks"
    over = f", over {len(block.tasks)} tasks" if isinstance(block, Overall) else ""
    return f"{block.backbone}, {block.condition.name}{over}{budget}"


def series(condition: Condition) -> str:
    """'isoparameter spectrum': a condition but for its rank, which is what a line over ranks is of."""
    return condition.name.replace(f" r={condition.rank}", "", 1)


def is_empty(block: Block) -> bool:
    """Whether there is not one score in it: then a sentence says so, and no table is shown."""
    return not any(cell.scores for row in block.rows for cell in row.cells.values())


def emptiness(block: Block) -> str:
    """'No score yet: 18 runs missing, 2 failed.'"""
    states: Counter[str] = sum((cell.other for row in block.rows for cell in row.cells.values()), Counter())
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"No score yet: {counts or 'every row is refused'}."


def has_overall(overall: Overall) -> bool:
    """Whether a table over tasks has anything to show."""
    return any(row.iqm or row.improvement or row.mean_rank is not None for row in overall.rows)


def overall_table(overall: Overall) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table over tasks, without the columns that nothing is known for."""
    scale = "normalised score" if any(row.normalised for row in overall.rows) else "score × 100"
    columns = [
        ("method", [row.name for row in overall.rows]),
        ("parameters", [f"{row.parameters:,}" for row in overall.rows]),
        (f"interquartile mean, {scale}", [_aggregate(row) for row in overall.rows]),
        ("probability of improvement over LoRA", [_estimate(row.improvement, 1.0, 2) for row in overall.rows]),
        ("mean rank", [_rank(row) for row in overall.rows]),
    ]
    kept = [column for column in columns if any(column[1])]
    return [name for name, _ in kept], [list(line) for line in zip(*(cells for _, cells in kept), strict=True)]


def _aggregate(row: OverallRow) -> str:
    return _estimate(row.iqm, *((1.0, 2) if row.normalised else (100.0, 1)))


def _estimate(estimate: Estimate | None, factor: float, digits: int) -> str:
    if estimate is None:
        return ""

    def number(value: float) -> str:
        return f"{round(factor * value, digits) + 0.0:.{digits}f}".replace("-", MINUS)

    if estimate.interval is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.interval.low)}, {number(estimate.interval.high)}]"


def _rank(row: OverallRow) -> str:
    return "" if row.mean_rank is None else f"{row.mean_rank:.2f}"
