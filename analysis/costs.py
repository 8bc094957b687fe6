"""What methods cost: the Pareto front of parameters and scores, and step time and peak memory of comparable runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.model import Block, Estimate, Interval, Method


@dataclass(frozen=True)
class Cost:
    """One method's medians over conditions, with the smallest and largest value as the interval."""

    method: str
    step_seconds: Estimate
    peak_bytes: Estimate | None


def pareto_front(points: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """The (parameters, score) that no other point beats with as few parameters, in order of parameters."""
    front: list[tuple[int, float]] = []
    for parameters, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((parameters, score))
    return tuple(front)


def costs_of(blocks: Sequence[Block], task: str) -> tuple[tuple[Cost, ...], str]:
    """The costs of each method on a task over these blocks, or none and why the times are not comparable."""
    reasons = dict.fromkeys(block.no_times for block in blocks if block.no_times)
    if reasons:
        return (), "; ".join(filter(None, reasons))
    times: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    for block in blocks:
        for row, _, cell in block.cells(task):
            if cell.step_seconds is not None:
                times[row.name].append(cell.step_seconds)
                memory[row.name] += [] if cell.peak_bytes is None else [cell.peak_bytes]
    return tuple(
        Cost(name, _median(values), _median(memory[name]) if memory[name] else None) for name, values in times.items()
    ), ""


def _median(values: list[float]) -> Estimate:
    ordered = sorted(values)
    return Estimate(ordered[len(ordered) // 2], Interval(ordered[0], ordered[-1], Method.RANGE))
