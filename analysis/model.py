"""The analysis' data: loaded sweeps, choices, cells, rows and blocks. All other modules read or fill them.

Scores are in the metric's own unit (a fraction for accuracy, not a percentage).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics.intervals import Estimate, Interval, Method
from analysis.statistics.paired import MARGIN, Paired
from analysis.statistics.ranks import Ranks
from tensloradist.results.schema import Condition, Manifest
from tensloradist.spec import REFERENCES, RunSpec
from tensloradist.wording import exactly

__all__ = ["Estimate", "Interval", "Method", "Paired", "Ranks"]

CELL = ["backbone", "task", "condition", "row"]  # columns of the frame that name a cell
ENDED = ("finished", "diverged")  # states of runs with a final result
FINGERPRINTS = ("data", "split", "data_order", "head")  # runs may be paired if these are equal
Runs = list[Any]  # rows of the frame as named tuples, with _ for . in column names


@dataclass(kw_only=True)
class Loaded:
    """Sweeps and their results.

    Attributes:
        frame: a row for each run and condition; its columns are `analysis.load.columns.COLUMNS`.
        broken: one line for each file that could not be read.
        warnings: sentences for the reader.
        root: the results folder; None if a bundle was read, since bundles are not unpacked to a lasting folder.
        sources: the sweeps as named by the user.
    """

    manifests: tuple[Manifest, ...]
    frame: pd.DataFrame
    broken: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    root: Path | None = None
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The names of the sweeps."""
        return " + ".join(manifest.name for manifest in self.manifests)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The distinct conditions of all sweeps, in order."""
        return tuple({c.name: c for manifest in self.manifests for c in manifest.conditions}.values())

    def left_out(self) -> list[str]:
        """A warning for each file that could not be read."""
        return [f"Left out: {line}" for line in self.broken]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One optimiser setting that was tried in a cell, with its mean validation score over the cell's common seeds.

    Attributes:
        validation: the mean over runs with a score; None without a common seed or without any score.
        ended: the number of runs that finished or diverged.
        without_score: how many runs on the common seeds have no score, because they diverged or it is undefined.
    """

    values: dict[str, Any]
    validation: float | None
    ended: int
    without_score: int = 0

    @property
    def label(self) -> str:
        """'learning_rate 0.001, epochs 10'."""
        return ", ".join(
            f"{name.removeprefix('optimizer.')} {exactly(value) if isinstance(value, int | float) else value}"
            for name, value in self.values.items()
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The setting chosen for one cell, the settings tried, and whether the choice is at the edge of the grid."""

    cell: tuple[str, ...]  # backbone, task, condition, row
    chosen: dict[str, Any]
    tried: tuple[Setting, ...]
    common_seeds: int
    at_edge: bool

    @property
    def setting(self) -> Setting:
        """The chosen setting."""
        return next(setting for setting in self.tried if setting.values == self.chosen)

    @property
    def why_not_chosen(self) -> str | None:
        """Why no choice was possible, in which case the grid's first setting is used; None if there was a choice."""
        if not self.common_seeds:
            return "its settings have no common seed yet"
        if self.setting.validation is None:
            return "no run of any setting has a validation score"
        return None

    def is_chosen(self, setting: Setting) -> bool:
        """Whether this setting was chosen, not merely used for want of a choice."""
        return setting.values == self.chosen and not self.why_not_chosen

    def describe(self) -> str:
        if self.why_not_chosen:
            return f"{self.setting.label} (the grid's first, not chosen)"
        return self.setting.label + (" (at the grid's edge)" if self.at_edge else "")

    def best_by(self, axis: str) -> dict[float, float]:
        """Value of a numeric axis -> the best validation score over the other axes, by ascending value."""
        best: dict[float, float] = {}
        for setting in self.tried:
            if setting.validation is not None:
                value = float(setting.values[axis])
                best[value] = max(best.get(value, setting.validation), setting.validation)
        return dict(sorted(best.items()))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one task under one condition.

    Attributes:
        scores: seed -> test score of a finished run.
        planned: the number of planned runs.
        other: state -> the number of runs without a score in it.
        estimate: the mean of the scores with its 95 % interval and the kind of interval; None without a score.
        difference: the paired difference to LoRA; without one, `no_difference` may give the reason.
        best: whether the cell is shown in bold.
        step_seconds, peak_bytes: medians over seeds; not comparable if `Block.no_times` is set.
        run_ids: seed -> run id, for all planned runs of the chosen setting.
        without_score: seed -> 'diverged' or 'undefined score', for runs that ended without a score.
    """

    scores: dict[int, float] = field(default_factory=dict)
    planned: int = 0
    other: Counter[str] = field(default_factory=Counter)
    metric: str | None = None
    estimate: Estimate | None = None
    difference: Paired | None = None
    no_difference: str | None = None
    best: bool = False
    choice: Choice | None = None
    step_seconds: float | None = None
    peak_bytes: int | None = None
    run_ids: dict[int, str] = field(default_factory=dict)
    without_score: dict[int, str] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        return None if self.estimate is None else self.estimate.value

    @property
    def is_complete(self) -> bool:
        return self.planned > 0 and len(self.scores) == self.planned

    @property
    def is_unpaired(self) -> bool:
        """Whether the difference is missing because the runs differ in more than the method."""
        return self.difference is None and "differ" in (self.no_difference or "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method: its parameters, and a cell for each task."""

    name: str
    parameters: int
    residual: float
    ranks: str
    beyond_budget: bool
    refused: str | None  # the reason; a refused row has no cells
    cells: dict[str, Cell]
    method: str = ""

    @property
    def is_reference(self) -> bool:
        """Whether the row is a reference such as full fine-tuning, which is shown but neither bold nor tested."""
        return self.method in REFERENCES

    @property
    def is_ranked(self) -> bool:
        """Whether the row may be bold and takes part in rankings."""
        return not (self.is_reference or self.beyond_budget or self.refused)


@dataclass(frozen=True)
class Address:
    """The full name of a cell: 'qkv_depth tucker, dtd, isorank r=4, deit_tiny'."""

    backbone: str
    condition: str
    row: str
    task: str

    def __str__(self) -> str:
        return f"{self.row}, {self.task}, {self.condition}, {self.backbone}"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One backbone under one condition: a table."""

    backbone: str
    condition: Condition
    tasks: tuple[str, ...]
    metrics: dict[str, str]  # task -> name of its metric
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    data_sets: dict[str, str] = field(default_factory=dict)  # task -> fingerprint of its data
    no_times: str | None = None  # why times are not comparable; None if they are

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def cells(self, task: str | None = None) -> list[tuple[Row, str, Cell]]:
        """(row, task, cell) of the whole table or of one task, row by row. Refused rows have no cells."""
        return [(row, t, cell) for row in self.rows for t, cell in row.cells.items() if task in (None, t)]

    def address(self, row: Row, task: str) -> Address:
        return Address(self.backbone, self.condition.name, row.name, task)

    def with_cells(self, new: Mapping[tuple[str, str], Cell]) -> Block:
        """A copy of the block with the cells at these (row, task) replaced."""
        rows = [
            replace(row, cells={task: new.get((row.name, task), cell) for task, cell in row.cells.items()})
            for row in self.rows
        ]
        return replace(self, rows=rows)

    @property
    def baseline(self) -> tuple[Row | None, str]:
        """The LoRA row, or None and the reason why there is none to compare with."""
        candidates = [row for row in self.rows if row.method == "lora"]
        plain = [row for row in candidates if row.name == "lora"] or candidates
        if len(plain) == 1:
            return plain[0], ""
        return None, "no LoRA in this sweep" if not candidates else "several LoRA variants in this sweep"


@dataclass(frozen=True, kw_only=True)
class OverallRow:
    """One method over all tasks."""

    name: str
    parameters: int
    normalised: bool  # whether head-only training scores 0 and full fine-tuning 1
    iqm: Estimate | None  # interquartile mean
    improvement: Estimate | None  # probability that a run beats a LoRA run
    mean_rank: float | None


@dataclass(frozen=True, kw_only=True)
class Overall:
    """One backbone under one condition, over its tasks."""

    backbone: str
    condition: Condition
    tasks: tuple[str, ...]
    rows: list[OverallRow]
    ranks: Ranks | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that tables, figures and the report show.

    Attributes:
        warnings: sentences shown above everything else.
        margin: half the region of practical equivalence, in the unit of the scores.
    """

    loaded: Loaded
    blocks: list[Block]
    overall: list[Overall]
    warnings: list[str]
    margin: float = MARGIN

    @property
    def name(self) -> str:
        return self.loaded.name

    @cached_property
    def specs(self) -> dict[str, RunSpec]:
        """run_id -> its resolved specification."""
        return {run.run_id: run.spec for manifest in self.loaded.manifests for run in manifest.runs}

    @cached_property
    def runs(self) -> dict[str, dict[str, Any]]:
        """run_id -> its row of the frame, with None for missing values."""
        frame = self.loaded.frame.drop_duplicates("run_id").astype(object)
        records = frame.where(frame.notna(), None).to_dict("records")
        return {str(record["run_id"]): {str(k): v for k, v in record.items()} for record in records}

    def cells(self) -> Iterator[tuple[Block, Row, str, Cell]]:
        """(block, row, task, cell) of all tables, in their order."""
        return ((block, *place) for block in self.blocks for place in block.cells())

    def place(self, address: Address) -> tuple[Block, Row, Cell]:
        """The block, row and cell at one of the `addresses`."""
        block = next(b for b in self.blocks if (b.backbone, b.condition.name) == (address.backbone, address.condition))
        row = block.row(address.row)
        return block, row, row.cells[address.task]

    @property
    def choices(self) -> list[Choice]:
        return [cell.choice for _, _, _, cell in self.cells() if cell.choice]

    def addresses(self) -> list[Address]:
        """The address of every cell, in the tables' order."""
        return [block.address(row, task) for block, row, task, _ in self.cells()]
