"""A cell of the tables by its address, and how its number came to be: runs, specifications, attempts, hardware."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from analysis.analyse import Analysis
from analysis.tables import Block, Cell, Row
from tensloradist.results.attempts import attempt_files
from tensloradist.results.layout import RunFolder, results_root


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
    environment: str | None
    plugins: str | None
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
    """Everything that makes up a cell. Attempts are read from the results folder, which a bundle has left behind.

    Raises:
        UserError: an attempt's record is not readable.
    """
    block = next(b for b in analysis.blocks if (b.backbone, b.condition.name) == (address.backbone, address.condition))
    row = block.row(address.row)
    cell = row.cells[address.task]
    runs = tuple(_run(analysis, run_id) for run_id in cell.run_ids.values())
    first = next(iter(cell.run_ids.values()), None)
    spec = {} if first is None else {key: value for key, value in analysis.specs[first].items() if key != "seed"}
    again = "" if not runs else f'tensloradist reproduce "{address}" {_sweeps(analysis)}'.rstrip()
    return CellStory(address, block, row, cell, runs, spec, again)


def _sweeps(analysis: Analysis) -> str:
    """The options that find the same sweeps again."""
    options = [f"--sweep {shlex.quote(source)}" for source in analysis.loaded.sources]
    root = analysis.loaded.root
    if root is not None and root != results_root():
        options.append(f"--results {shlex.quote(str(root))}")
    return " ".join(options)


def _run(analysis: Analysis, run_id: str) -> RunStory:
    run, root = analysis.runs[run_id], analysis.loaded.root
    folder = None if root is None else RunFolder(root, run_id)
    stored = folder is not None and folder.spec.exists()
    return RunStory(
        run_id=run_id,
        seed=int(run["seed"]),
        folder=None if folder is None else str(folder.path),
        command=f"tensloradist run {folder.spec} --results again" if folder is not None and stored else None,
        attempts=() if folder is None else tuple(_attempt(folder, number) for number in folder.attempt_numbers()),
        **{name: run[name] for name in _SHOWN},
    )


_SHOWN = (
    "state",
    "score",
    "validation_score",
    "cause",
    "hardware",
    "versions",
    "precision",
    "environment",
    "plugins",
    "commit",
    "host",
)


def _attempt(folder: RunFolder, number: int) -> AttemptStory:
    files = attempt_files(folder, number)
    record, end, parts = files.record, files.end, []
    if record is not None:
        when = datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
        job = f", job {record.slurm.job_id}" if record.slurm else ""
        parts.append(f"{when} on {record.host}{job}")
        if record.resumed_from is not None:
            parts.append(f"from step {record.resumed_from.step} of attempt {record.resumed_from.attempt}")
    if end is not None:
        took = f" after {end.ended - record.started:.0f} s" if record is not None else ""
        parts.append(f"{end.state}{took}" + (f" ({end.cause})" if end.cause else ""))
    elif files.failure is not None:
        parts.append(f"failed ({files.failure.cause})")
    elif not files.unreadable:
        has_result = (folder.attempt(number) / "result.json").exists()
        parts.append("has a result" if has_result else "has not said how it ended")
    parts += map(str, files.unreadable)
    return AttemptStory(number, "; ".join(parts))
