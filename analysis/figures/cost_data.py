"""The data of the figure of step time and memory: only of runs whose times may be compared."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.data import Cost, Estimate
from analysis.tables import Block

MEBIBYTE = 2**20


def cost_of(blocks: Sequence[Block], task: str) -> tuple[Cost | None, str | None]:
    """Median step time and peak memory of each method over conditions, from the least to the most; or why not."""
    reasons = dict.fromkeys(block.no_times for block in blocks if block.no_times)
    if reasons:
        return None, "; ".join(filter(None, reasons))
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for block in blocks:
        for row in block.rows:
            cell = row.cells.get(task)
            if cell is not None and cell.step_seconds is not None:
                times.setdefault(row.name, []).append(1000 * cell.step_seconds)
                if cell.peak_bytes is not None:
                    memory.setdefault(row.name, []).append(cell.peak_bytes / MEBIBYTE)
    rows = tuple((name, _range(values), _range(memory.get(name, []))) for name, values in times.items())
    return (Cost(rows), None) if rows else (None, None)


def _range(values: list[float]) -> Estimate | None:
    if not values:
        return None
    ordered = sorted(values)
    return Estimate(ordered[len(ordered) // 2], ordered[0], ordered[-1])
