"""How the number in a cell was obtained: its runs, their specification, attempts and hardware."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from analysis.model import Address, Analysis, Block, Cell, Row
from tensloradist.results.attempts import attempt_line
from tensloradist.results.layout import RunFolder, results_root

_OUTCOME = ("state", "score", "validation_score", "cause")
_PROVENANCE = ("hardware", "versions", "precision", "environment", "plugins", "commit", "host")


@dataclass(frozen=True)
class ExplainedAttempt:
    """One attempt of a run: where and when, from which checkpoint, and how it ended."""

    number: int
    line: str


@dataclass(frozen=True, kw_only=True)
class ExplainedRun:
    """One run behind a cell. Columns of the frame are None if they are not on record."""

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
    folder: str | None  # None if a bundle was read
    command: str | None  # trains the same run again
    attempts: tuple[ExplainedAttempt, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """How the number in a cell was obtained."""

    address: Address
    block: Block
    row: Row
    cell: Cell
    runs: tuple[ExplainedRun, ...]
    spec: dict[str, Any]  # of the runs, without the seed
    reproduce: str  # the command that trains one seed again and compares its score


def explain(analysis: Analysis, address: Address) -> Explanation:
    """Everything behind a cell. Attempts are read from the results folder; a bundle does not contain them.

    Raises:
        UserError: the record of an attempt is unreadable.
    """
    block, row, cell = analysis.place(address)
    first = next(iter(cell.run_ids.values()), None)
    again = f"tensloradist reproduce {shlex.quote(str(address))} {_options(analysis)}".rstrip()
    return Explanation(
        address=address,
        block=block,
        row=row,
        cell=cell,
        runs=tuple(_run(analysis, run_id) for run_id in cell.run_ids.values()),
        spec={} if first is None else analysis.specs[first].model_dump(mode="json", exclude={"seed"}),
        reproduce="" if first is None else again,
    )


def _options(analysis: Analysis) -> str:
    """The options that name the same sweeps again."""
    options = [f"--sweep {shlex.quote(source)}" for source in analysis.loaded.sources]
    root = analysis.loaded.root
    if root is not None and root != results_root():
        options.append(f"--results {shlex.quote(str(root))}")
    return " ".join(options)


def _run(analysis: Analysis, run_id: str) -> ExplainedRun:
    run, root = analysis.runs[run_id], analysis.loaded.root
    folder = None if root is None else RunFolder(root, run_id)
    has_spec = folder is not None and folder.spec.exists()
    numbers = [] if folder is None else folder.attempt_numbers()
    return ExplainedRun(
        run_id=run_id,
        seed=int(run["seed"]),
        folder=None if folder is None else str(folder.path),
        command=f"tensloradist run {shlex.quote(str(folder.spec))} --results again" if folder and has_spec else None,
        attempts=tuple(ExplainedAttempt(n, attempt_line(folder, n)) for n in numbers if folder is not None),
        **{name: run[name] for name in (*_OUTCOME, *_PROVENANCE)},
    )
