"""Failures of a launch's runs: applies `policy` to the attempts on disk, records its decisions, and holds cells."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from launch.records.policy import Decision, Growth, decide, to_hold
from tensloradist.files import write_once
from tensloradist.records import NewerRecord, UnreadableRecord
from tensloradist.results.attempts import read_decision
from tensloradist.results.holds import hold
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_failure_of
from tensloradist.results.schema import TRIED_AGAIN, DecisionRecord, Failure, ManifestRun
from tensloradist.spec import RunSpec


class FailureBook:
    """The failures of a launch's runs since it began, and the decisions on them.

    Args:
        baseline: run_id -> its highest claim when the launch began.
        given: the resources of the launch's jobs; None without a job.
        manifest: reads all runs of the sweep, with those that the launch leaves out; called only before a cell is held.
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
        """Whether the run is not to be tried again here, by the recorded decision if there is one."""
        if self.needs_more(folder):
            return True
        failures = self.of_launch(folder)
        if not failures:
            return False
        recorded = decision_of(folder, failures[-1].attempt)
        return (recorded or decide(failures, None, self._given)).action not in TRIED_AGAIN

    def is_undecided(self, folder: RunFolder) -> bool:
        """Whether the newest failure has no decision: its worker was stopped before it could decide."""
        failures = self.of_launch(folder)
        return bool(failures) and decision_of(folder, failures[-1].attempt) is None

    def needs_more(self, folder: RunFolder) -> bool:
        """Whether the run needs a larger job than this launch's."""
        return self._given is not None and not self._given.covers(demand_of(folder))

    def decide(self, run: ManifestRun, folder: RunFolder) -> Decision | None:
        """Decide on the newest failure, record that in its attempt, and hold the cell if its runs fail alike."""
        failures = self.of_launch(folder)
        if not failures:
            return None
        decision = decide(failures, self.adjusted(run, folder), self._given)
        record = DecisionRecord(cause=failures[-1].cause, **asdict(decision)).model_dump()
        write_once(folder.attempt(failures[-1].attempt) / "decision.json", json.dumps(record, indent=2) + "\n")
        self._break_circuit(run)
        return decision

    def adjusted(self, run: ManifestRun, folder: RunFolder) -> RunSpec:
        """The run's spec, with the batches that the newest decisions on its attempts have set."""
        smaller: dict[str, int] = {}
        for number in folder.attempt_numbers():
            if decision := decision_of(folder, number):
                batches = {"micro_batch": decision.micro_batch, "evaluation_batch": decision.evaluation_batch}
                smaller |= {name: size for name, size in batches.items() if size}
        return run.spec.model_copy(update={"compute": run.spec.compute.model_copy(update=smaller)})

    def _break_circuit(self, run: ManifestRun) -> None:
        """Hold the runs of a cell that have not begun, if its first runs all failed for one cause."""
        cell = self._cells[_cell(run)]
        # Only runs that can be held count: not one in another user's folder.
        folders = [folder for other in cell if (folder := RunFolder(self._root, other.run_id)).can_be_worked_in]
        first = {folder.run_id: failures[0] for folder in folders if (failures := self.of_launch(folder))}
        reason = to_hold(list(first.values()))
        if reason is None or self._has_finished_runs(run, cell):
            return
        for folder in folders:
            if not os.path.exists(folder.result) and folder.run_id not in first:
                hold(folder, f"{reason} ({run.row}, {run.task})")

    def _has_finished_runs(self, run: ManifestRun, cell: Sequence[ManifestRun]) -> bool:
        """Whether any run of the cell has a result, of this launch or another: then nothing is wrong with the cell."""
        whole = (other for other in self._manifest() if _cell(other) == _cell(run))
        return any(os.path.exists(RunFolder(self._root, other.run_id).result) for other in (*cell, *whole))


def _failure(folder: RunFolder, number: int) -> Failure | None:
    """An attempt's failure; a damaged record counts as one, so that the run is not retried for ever."""
    try:
        return read_failure_of(folder, number)
    except NewerRecord:
        raise
    except UnreadableRecord as error:
        return Failure(run_id=folder.run_id, attempt=number, cause="killed", message=str(error))


def demand_of(folder: RunFolder) -> Growth:
    """The resources that the run needs by the newest decision that names them."""
    for number in reversed(folder.attempt_numbers()):
        if (decision := decision_of(folder, number)) and (growth := decision.growth):
            return Growth(growth.memory, growth.time)
    return Growth()


def decision_of(folder: RunFolder, number: int) -> DecisionRecord | None:
    """The decision on an attempt's failure; None without a record that can be read.

    Raises:
        NewerRecord: a newer version has decided.
    """
    try:
        return read_decision(folder.attempt(number))
    except NewerRecord:
        raise
    except UnreadableRecord:  # as if it had not been written; `status` names it
        return None


def _cell(run: ManifestRun) -> tuple[str, ...]:
    return (run.backbone, run.task, run.row, *(membership.condition for membership in run.conditions))
