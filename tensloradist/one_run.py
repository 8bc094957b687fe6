"""Training one run in this process, as the command `run` does; under torchrun, as one of several processes."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist import backbones
from tensloradist.budget import count, surplus_ranks
from tensloradist.config import load_run_spec
from tensloradist.environment import process_index
from tensloradist.errors import UserError
from tensloradist.foreground import Interruption, Progress
from tensloradist.identity import resolve
from tensloradist.results.attempts import read_attempt
from tensloradist.results.checkpoints import kept_step
from tensloradist.results.control import RunControl, Stopped
from tensloradist.results.execute import Outcome, execute
from tensloradist.results.layout import RunFolder, results_root
from tensloradist.results.publish import read_result, recover_broken, sound_attempt
from tensloradist.results.standing import Standing, standing
from tensloradist.terminal import say
from tensloradist.trackers import require_trackers
from tensloradist.wording import scored

if TYPE_CHECKING:
    from tensloradist.spec import RunSpec

INTERRUPTED = 130  # the exit code


def train_one(file: Path, overrides: list[str], results: Path | None) -> int:
    """Train the run of a file and publish its result, unless it has one; print how it goes.

    Args:
        overrides: 'field=value', which replace fields of the file.
        results: the results folder as the user gave it; None for the default.

    Returns:
        The exit code: 0, 1 for a run that failed, 130 for one that was interrupted.

    Raises:
        UserError: a mistake in the file, missing data, or a run that another process trains. Nothing is claimed then.
    """
    spec, root = resolve(load_run_spec(file, overrides)), results_root(results)
    folder = RunFolder(root, spec.run_id)
    is_first = process_index() == 0
    if is_first:
        recover_broken(folder)
    found = standing(folder) if is_first else _foreseen(folder)
    if found.is_over:
        say(f"run {folder.run_id} has a result already: {folder.result}")
        return 0
    if found.is_left_alone or found.state == "broken":
        raise UserError(found.problems[0])
    shape = backbones.shape_of(spec.backbone, spec.adapter.projections)
    count(spec.adapter, shape)  # refuses an adapter that does not fit the backbone
    require_trackers(spec.compute.log_with)
    if not is_first:
        return _follow(spec)
    say(f"run {folder.run_id} in {folder.path}")
    surplus = surplus_ranks(spec.adapter, shape)
    if surplus is not None:
        say(f"note: {surplus}")
    outcome = _train_here(spec, root, _command(file, overrides, results, spec.compute.processes))
    return INTERRUPTED if outcome is None else _say_outcome(outcome, folder)


def _foreseen(folder: RunFolder) -> Standing:
    """The standing that a run will have once its first process has set a damaged result aside, as it alone does."""
    found = standing(folder)
    if found.state != "broken":
        return found
    if (attempt := sound_attempt(folder)) is not None:
        result = read_result(folder.attempt(attempt) / "result.json")
        return Standing(result.state, result)
    # Without a result, the first process has set it aside by now, or it is the claim that is damaged.
    return Standing("open") if folder.result.exists() else standing(folder)


def _train_here(spec: RunSpec, root: Path, command: str) -> Outcome | None:
    """Train with a progress bar; None for a run that was interrupted, after printing how to go on.

    Args:
        command: what goes on with the run.
    """
    from tensloradist.training import train

    def started(attempt: Path) -> None:
        record = read_attempt(attempt)
        if record is not None and record.resumed_from is not None:
            say(f"goes on after step {record.resumed_from.step}, from attempt {record.resumed_from.attempt}")

    control = RunControl()
    try:
        with Interruption(control), Progress() as progress:
            outcome = execute(spec, root, partial(train, keep=False), progress.show, started, control=control)
        # A failure without a request to stop means that another process has taken the run over.
        interrupted = outcome.failure is not None and control.stop_reason is not None
    except KeyboardInterrupt:
        interrupted = True
    if not interrupted:
        return outcome
    kept = kept_step(RunFolder(root, spec.run_id))
    of = f" of {progress.steps}" if progress.steps else ""
    where = f"step {kept}{of} is kept, and it goes on from there" if kept else "nothing is kept, and it starts anew"
    say(f"interrupted: {where} with", f"  {command}", stderr=True)
    return None


def _follow(spec: RunSpec) -> int:
    """Take part as any process but the first, which alone claims the run and publishes its result."""
    from tensloradist.training import train

    control = RunControl()
    try:
        with Interruption(control, speaks=False):
            train(spec, None, control=control)
    except (KeyboardInterrupt, Stopped):
        return INTERRUPTED
    return 0


def _say_outcome(outcome: Outcome, folder: RunFolder) -> int:
    """Print the scores, or why the run failed; returns the exit code."""
    if outcome.status == "busy":
        raise UserError(f"run {folder.run_id} is being trained by another process; its claim is in {folder.path}")
    failure, result = outcome.failure, outcome.result
    if failure is not None:
        if failure.cause in ("configuration", "data_missing"):
            raise UserError(failure.message)
        say(f"failed ({failure.cause}): {failure.message}", failure.traceback or "", stderr=True)
        return 1
    assert result is not None
    scores = ", ".join(scored(name, value) for name, value in result.metrics.test.items())
    say(
        f"{outcome.status}: test {scores}; {result.adapter_parameters:,} adapter parameters, "
        f"{result.times.total_seconds:.0f} s; {folder.result}"
    )
    return 0


def _command(file: Path, overrides: list[str], results: Path | None, processes: int) -> str:
    """The command that goes on with an interrupted run."""
    start = f"torchrun --nproc_per_node {processes} -m tensloradist" if processes > 1 else "tensloradist"
    place = ["--results", str(results)] if results is not None else []
    return f"{start} {shlex.join(['run', str(file), *overrides, *place])}"
