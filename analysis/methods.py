"""A methods paragraph for a paper: what was done with these very runs, and nothing that was not."""

from __future__ import annotations

from analysis.analyse import Analysis
from analysis.statistics.intervals import BOOTSTRAP_FROM
from analysis.statistics.permutation import EXACT_UP_TO


def methods_paragraph(analysis: Analysis) -> str:
    """One paragraph of prose."""
    cells = [cell for block in analysis.blocks for row in block.rows for cell in row.cells.values()]
    methods = {cell.interval.method for cell in cells if cell.interval}
    parts = [f"Each setting was trained with {_range([cell.planned for cell in cells if cell.planned])} seeds."]
    if "t" in methods:
        parts.append("Intervals are 95 % Student's t intervals of the mean over seeds.")
    if "BCa" in methods:
        parts.append(f"From {BOOTSTRAP_FROM} seeds on they are BCa bootstrap intervals.")
    if any(cell.difference for cell in cells):
        parts.append(f"Differences to LoRA are paired by seed; sign-flip tests are exact up to {EXACT_UP_TO} seeds.")
    return " ".join(parts)


def _range(numbers: list[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low}" if low == high else f"{low} to {high}"
