"""The data of each kind of figure, as plain values that can be sent to another process.

Scores and differences are in points (100 × the metric), except in curves. Costs and curves keep their own units.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.costs import Cost
from analysis.curves import Curve
from analysis.model import Estimate


@dataclass(frozen=True, kw_only=True)
class Point:
    """A method's score at its number of parameters, in one condition."""

    method: str
    condition: str
    kind: str  # isorank or isoparameter
    parameters: int
    score: Estimate


@dataclass(frozen=True)
class Parameters:
    metric: str
    points: tuple[Point, ...]
    front: tuple[tuple[int, float], ...]  # (parameters, score) of the Pareto front, by parameters


@dataclass(frozen=True)
class Pairs:
    """The conditions of one rank, side by side."""

    metric: str
    conditions: tuple[str, ...]  # 'isorank', 'isoparameter spectrum'
    rows: tuple[tuple[str, tuple[Estimate | None, ...]], ...]  # method, and its score in each condition


@dataclass(frozen=True)
class Curves:
    metric: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Forest:
    rows: tuple[tuple[str, Estimate | None, str], ...]  # method, difference to LoRA, and its text or why there is none
    equivalence: float  # half the width of the region of practical equivalence


@dataclass(frozen=True)
class Lines:
    """Scores of each method over ranks or learning rates."""

    metric: str
    axis: str
    lines: tuple[tuple[str, tuple[tuple[float, Estimate], ...]], ...]  # method, (x, score) in order
    chosen: tuple[tuple[str, float], ...] = ()  # the x of a method's chosen setting


@dataclass(frozen=True)
class CriticalDifference:
    ranks: tuple[tuple[str, float], ...]  # method, mean rank; the best first
    difference: float
    groups: tuple[tuple[float, float], ...]  # (best, worst) rank of methods that the test cannot distinguish


@dataclass(frozen=True)
class Costs:
    methods: tuple[Cost, ...]


Data = Parameters | Pairs | Curves | Forest | Lines | CriticalDifference | Costs


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure to draw."""

    kind: str
    name: str  # of its files, unique in a report
    title: str  # what it shows
    subtitle: str  # for which task, backbone and condition
    caption: str
    backbone: str
    task: str  # empty for a figure over tasks
    data: Data
