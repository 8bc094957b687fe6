"""Training one seed of a cell again in a folder of its own, and comparing the scores; the original is not touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysis.model import Address, Analysis, Interval
from tensloradist.errors import UserError
from tensloradist.files import make_folder, write_once
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result
from tensloradist.results.schema import Result

EXIT_MISTAKE = 2


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The published score of a run, its score when trained again, and the interval of its cell."""

    run_id: str
    seed: int
    original: float | None
    again: float | None
    metric: str
    interval: Interval | None  # 95 %, of the mean over seeds
    spread: tuple[float, float]  # smallest and largest score of the cell's seeds
    folder: Path
    result: Result

    @property
    def is_equal(self) -> bool:
        return self.original == self.again

    @property
    def is_inside(self) -> bool | None:
        """Whether the new score lies in the interval; None without an interval, as with one seed."""
        if self.interval is None or self.again is None:
            return None
        return self.interval.low <= self.again <= self.interval.high

    @property
    def holds(self) -> bool:
        """Whether it is equal, inside the interval, or in the range of the seeds, which is often wider."""
        if self.is_equal or self.is_inside:
            return True
        return self.again is not None and self.spread[0] <= self.again <= self.spread[1]


def reproduce(
    analysis: Analysis, address: Address, seed: int | None, out: Path | None, say: Callable[[str], None]
) -> Reproduction:
    """Train one seed of a cell again in a process and a results folder of its own.

    Args:
        seed: None for the first seed with a score.
        out: a folder for reproductions; None for `reproductions` in the results folder.
        say: called with what is done and with each line of the training's output.

    Raises:
        UserError: the cell has no such seed, the run cannot be trained here, or its data or code have changed.
    """
    _, _, cell = analysis.place(address)
    if not cell.scores:
        raise UserError(f"{address}: no seed has a score yet, so there is nothing to reproduce")
    seed = next(iter(cell.scores)) if seed is None else seed
    if seed not in cell.scores:
        known = ", ".join(map(str, cell.scores))
        raise UserError(f"--seed {seed}: {address} has scores for the seeds {known}")
    if out is None and analysis.loaded.root is None:
        raise UserError("--out is needed with bundles: a folder to train in")
    run_id = cell.run_ids[seed]
    folder = _new_folder((out or Path(str(analysis.loaded.root)) / "reproductions") / run_id)
    spec = analysis.specs[run_id]
    overrides = []
    if spec.compute.processes > 1:
        overrides = [
            "compute.strategy=single",
            "compute.processes=1",
            "compute.nodes=null",
            "compute.processes_per_node=null",
        ]
        say("trained by several processes originally and by one now, so sums are rounded in another order")
    given = folder / "run.yaml"
    write_once(given, json.dumps(spec.model_dump(mode="json"), indent=1) + "\n")  # JSON is YAML
    say(f"training run {run_id} (seed {seed}) again in {folder}")
    _train(given, folder, overrides, say)
    again = RunFolder(folder, run_id).result
    if not again.exists():
        others = [path.parent.name for path in folder.glob("runs/*/result.json")]
        raise UserError(
            f"run {run_id} is now {', '.join(others) or 'no run'}: its data, or the fields of the code, have changed"
        )
    result = read_result(again)
    scores = list(cell.scores.values())
    return Reproduction(
        run_id=run_id,
        seed=seed,
        original=cell.scores[seed],
        again=result.metrics.score,
        metric=result.metrics.primary,
        interval=cell.estimate.interval if cell.estimate else None,
        spread=(min(scores), max(scores)),
        folder=folder,
        result=result,
    )


def _new_folder(parent: Path) -> Path:
    """The next of 0001, 0002, …, so that earlier reproductions stay."""
    make_folder(parent)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    while True:
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another reproduction began meanwhile
            number += 1
        else:
            return folder


def _train(spec: Path, root: Path, overrides: list[str], say: Callable[[str], None]) -> None:
    command = [sys.executable, "-m", "tensloradist.cli", "run", str(spec), *overrides, "--results", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    last = ""
    try:
        for line in process.stdout:
            last = line.strip() or last
            say(line.rstrip())
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
    if process.returncode == EXIT_MISTAKE:
        raise UserError(f"the run cannot be trained here: {last.removeprefix('error: ')}")
    if process.returncode:
        raise UserError(f"training failed with exit code {process.returncode} ({last}); logs are in {root}")
