"""What each kind of figure shows, as plain values: prepared once, and light enough to be sent to another process.

Scores and differences are in points (100 × the metric), intervals at 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; None where there is none, as with one seed."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """A method's score at its number of parameters, in one condition."""

    method: str
    condition: str
    kind: str  # isorank or isoparameter
    parameters: int
    score: Estimate
    complete: bool  # every planned seed finished, within the budget: only these may be on the Pareto front


@dataclass(frozen=True)
class Parameters:
    metric: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Pairs:
    """The conditions of one rank, side by side."""

    metric: str
    conditions: tuple[str, ...]  # 'isorank', 'isoparameter spectrum'
    rows: tuple[tuple[str, tuple[Estimate | None, ...]], ...]  # method, and its score in each condition


@dataclass(frozen=True)
class Curve:
    method: str
    epochs: tuple[int, ...]
    values: tuple[Estimate, ...]


@dataclass(frozen=True)
class Curves:
    metric: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Forest:
    rows: tuple[tuple[str, Estimate | None, str], ...]  # method, difference to LoRA, its text or why there is none
    equivalence: float  # half the width of the region of practical equivalence


@dataclass(frozen=True)
class Lines:
    """Scores of each method over a number: ranks, or learning rates."""

    metric: str
    axis: str
    lines: tuple[tuple[str, tuple[tuple[float, Estimate], ...]], ...]  # method, (x, score) in order
    chosen: tuple[tuple[str, float], ...] = ()  # the x of a method's chosen setting


@dataclass(frozen=True)
class CriticalDifference:
    ranks: tuple[tuple[str, float], ...]  # method, mean rank (1 is best)
    difference: float | None  # None: too few blocks for one
    blocks: int


@dataclass(frozen=True)
class Cost:
    rows: tuple[tuple[str, Estimate | None, Estimate | None], ...]  # method, milliseconds a step, mebibytes (min, max)


Data = Parameters | Pairs | Curves | Forest | Lines | CriticalDifference | Cost


@dataclass(frozen=True)
class Drawing:
    """One figure to draw."""

    kind: str
    name: str  # of its files, unique in a report
    title: str  # what it shows
    subtitle: str  # for which task, backbone and condition
    caption: str
    backbone: str
    task: str  # empty where it is over tasks
    data: Data
