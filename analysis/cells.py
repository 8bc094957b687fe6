"""A cell of the tables by its address, and how its number came to be: runs, specifications, attempts, hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.analyse import Analysis
from analysis.tables import Block, Cell, Row


@dataclass(frozen=True)
class Address:
    """A cell: 'qkv_depth tucker, dtd, isorank r=4', with the backbone where there are several."""

    backbone: str
    condition: str
    row: str
    task: str

    def __str__(self) -> str:
        return f"{self.row}, {self.task}, {self.condition}, {self.backbone}"


@dataclass(frozen=True)
class AttemptStory:
    """One attempt of a run: where and when, from which checkpoint, and how it ended."""

    number: int
    line: str


@dataclass(frozen=True)
class RunStory:
    """One run behind a cell."""

    run_id: str
    seed: int
    state: str
    score: float | None
    validation_score: float | None
    cause: str | None
    hardware: str | None
    versions: str | None
    precision: str | None
    commit: str | None
    host: str | None
    folder: str | None  # None where a bundle was read
    command: str | None  # trains the same run again
    attempts: tuple[AttemptStory, ...]


@dataclass(frozen=True)
class CellStory:
    """How a number came to be."""

    address: Address
    block: Block
    row: Row
    cell: Cell
    runs: tuple[RunStory, ...]
    spec: dict[str, Any]  # of the runs, but for the seed
    reproduce: str  # the command that trains one seed again and compares


def addresses(analysis: Analysis) -> list[Address]:
    """All cells, in the tables' order."""
    return [
        Address(block.backbone, block.condition.name, row.name, task)
        for block in analysis.blocks
        for row in block.rows
        for task in row.cells
    ]


def story(analysis: Analysis, address: Address) -> CellStory:
    """Everything that makes up a cell."""
    block = next(b for b in analysis.blocks if (b.backbone, b.condition.name) == (address.backbone, address.condition))
    row = block.row(address.row)
    cell = row.cells[address.task]
    frame = analysis.loaded.frame.drop_duplicates("run_id").set_index("run_id")
    specs = {run.run_id: run.spec for manifest in analysis.loaded.manifests for run in manifest.runs}
    runs = tuple(_run(frame.loc[run_id], run_id) for run_id in cell.run_ids.values())
    first = next(iter(cell.run_ids.values()), None)
    spec = {} if first is None else {key: value for key, value in specs[first].items() if key != "seed"}
    return CellStory(address, block, row, cell, runs, spec, f'tensloradist reproduce "{address}"')


def _run(run: Any, run_id: str) -> RunStory:
    def known(name: str) -> Any:
        value = run[name]
        return None if value != value or str(value) == "<NA>" else value

    return RunStory(
        run_id,
        int(run["seed"]),
        run["state"],
        known("score"),
        known("validation_score"),
        *(known(name) for name in ("cause", "hardware", "versions", "precision", "commit", "host")),
        folder=None,
        command=None,
        attempts=(),
    )
