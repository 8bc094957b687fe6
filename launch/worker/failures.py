"""What a launch's failures lead to: `policy` applied to the attempts on disk, decisions recorded, cells held."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.records.policy import Decision, Growth, decide, to_hold
from tensloradist.files import write_once
from tensloradist.records import NewerRecord, UnreadableRecord
from tensloradist.results.attempts import read_decision
from tensloradist.results.holds import hold
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_failure_of
from tensloradist.results.schema import TRIED_AGAIN, Failure, ManifestRun


class FailureBook:
    """The failures of a launch's runs since it began, and what follows from them.

    Args:
        baseline: run_id -> its highest claim when the launch began.
        given: what the launch's jobs were given; None outside of a job.
        manifest: reads all runs of the sweep, those that the launch leaves out included: only before a cell is held.
    """

    def __init__(
        self,
        root: Path,
        runs: Sequence[ManifestRun],
        baseline: Mapping[str, int],
        given: Growth | None = None,
        manifest: Callable[[], Sequence[ManifestRun]] = tuple,
    ) -> None:
        self._root, self._baseline, self._given, self._manifest = root, baseline, given, manifest
        self._cells: dict[tuple[str, ...], list[ManifestRun]] = defaultdict(list)
        for run in runs:
            self._cells[_cell(run)].append(run)

    def of_launch(self, folder: RunFolder) -> list[Failure]:
        """The failures of the run's attempts since the launch began, oldest first."""
        return [f for n in folder.attempt_numbers() if self._is_new(folder, n) and (f := _failure(folder, n))]

    def _is_new(self, folder: RunFolder, number: int) -> bool:
        return number > self._baseline[folder.run_id]

    def is_settled(self, folder: RunFolder) -> bool:
        """Whether the run's failures leave nothing to try here: as decided, where that is on record."""
        if self.needs_more(folder):
            return True
        failures = self.of_launch(folder)
        if not failures:
            return False
        recorded = decision_of(folder, failures[-1].attempt)
        return (recorded["action"] if recorded else decide(failures, None, self._given).action) not in TRIED_AGAIN

    def is_undecided(self, folder: RunFolder) -> bool:
        """Whether nothing is on record for the newest failure: its worker was stopped before it could decide."""
        failures = self.of_launch(folder)
        return bool(failures) and decision_of(folder, failures[-1].attempt) is None

    def needs_more(self, folder: RunFolder) -> bool:
        """Whether the run is for a larger job than this launch's are."""
        return self._given is not None and not self._given.covers(demand_of(folder))

    def decide(self, run: ManifestRun, folder: RunFolder) -> Decision | None:
        """Decide on the newest failure, record it in its attempt, and hold the cell where its runs fail alike."""
        failures = self.of_launch(folder)
        if not failures:
            return None
        decision = decide(failures, self.adjusted(run, folder), self._given)
        record = {"cause": failures[-1].cause, **decision.as_dict()}
        write_once(folder.attempt(failures[-1].attempt) / "decision.json", json.dumps(record, indent=2) + "\n")
        self._break_circuit(run)
        return decision

    def adjusted(self, run: ManifestRun, folder: RunFolder) -> dict[str, Any]:
        """The run's spec, with the batches that the newest decisions on its attempts have set."""
        decisions = [decision for number in folder.attempt_numbers() if (decision := decision_of(folder, number))]
        smaller = {
            field: decision[field]
            for decision in decisions
            for field in ("micro_batch", "evaluation_batch")
            if decision.get(field)
        }
        return {**run.spec, "compute": {**run.spec["compute"], **smaller}} if smaller else run.spec

    def _break_circuit(self, run: ManifestRun) -> None:
        """Hold what has not begun of a cell whose first runs all failed for one cause."""
        cell = self._cells[_cell(run)]
        # The circuit is broken for those that can be held: not for one in another user's folder.
        folders = [folder for other in cell if (folder := RunFolder(self._root, other.run_id)).can_be_worked_in]
        first = {folder.run_id: failures[0] for folder in folders if (failures := self.of_launch(folder))}
        reason = to_hold(list(first.values()))
        if reason is None or self._has_finished_runs(run, cell):
            return
        for folder in folders:
            if not os.path.exists(folder.result) and folder.run_id not in first:
                hold(folder, f"{reason} ({run.row}, {run.task})")

    def _has_finished_runs(self, run: ManifestRun, cell: Sequence[ManifestRun]) -> bool:
        """Whether any run of the cell has a result, by this launch or another: then nothing is wrong with the cell."""
        whole = (other for other in self._manifest() if _cell(other) == _cell(run))
        return any(os.path.exists(RunFolder(self._root, other.run_id).result) for other in (*cell, *whole))


def _failure(folder: RunFolder, number: int) -> Failure | None:
    """An attempt's failure; one whose record is damaged counts, so that the run is not tried for ever."""
    try:
        return read_failure_of(folder, number)
    except NewerRecord:
        raise
    except UnreadableRecord as error:
        return Failure(run_id=folder.run_id, attempt=number, cause="killed", message=str(error))


def demand_of(folder: RunFolder) -> Growth:
    """What the newest decision that says so has found the run to need."""
    for number in reversed(folder.attempt_numbers()):
        if (decision := decision_of(folder, number)) and (growth := decision.get("growth")):
            return Growth(**growth)
    return Growth()


def decision_of(folder: RunFolder, number: int) -> dict[str, Any] | None:
    """What was decided on an attempt's failure, as `Decision.as_dict` says it; None without a record that can be read.

    Raises:
        NewerRecord: a newer version has decided.
    """
    try:
        decision = read_decision(folder.attempt(number))
    except NewerRecord:
        raise
    except UnreadableRecord:  # as if it had not been written; `status` names it
        return None
    return decision.model_dump() if decision is not None else None


def _cell(run: ManifestRun) -> tuple[str, ...]:
    return (run.backbone, run.task, run.row, *(membership.condition for membership in run.conditions))
