"""Labels of runs in the output of commands: the fields that distinguish a run from the others of its sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tensloradist.errors import UserError
from tensloradist.nested import dotted
from tensloradist.results.manifests import latest_manifest
from tensloradist.results.schema import ManifestRun
from tensloradist.wording import exactly

if TYPE_CHECKING:
    from launch.planning.sweep_file import PlannedRun

Run: TypeAlias = "PlannedRun | ManifestRun"


class RunLabels:
    """The labels of a sweep's runs: no two are the same."""

    def __init__(self, runs: Sequence[Run]) -> None:
        cells: dict[tuple[str, ...], list[Run]] = defaultdict(list)
        for run in runs:
            cells[run.backbone, run.task, run.row, run.conditions[0].condition].append(run)
        several = len({run.backbone for run in runs}) > 1
        self._settings: dict[str, str] = {}
        self._labels: dict[str, str] = {}
        for (backbone, task, row, condition), own in cells.items():
            self._settings |= _settings(own)
            for run in own:
                setting = self._settings[run.run_id]
                place = [task, row, condition, *([backbone] if several else []), f"seed {run.spec.seed}"]
                self._labels[run.run_id] = ", ".join([*place, *([setting] if setting else [])])

    def label(self, run_id: str) -> str:
        """'digits, lora, isorank r=4, seed 0, learning_rate 0.001'."""
        return self._labels[run_id]

    def setting(self, run_id: str) -> str:
        """'learning_rate 0.001': the run's values of the optimiser's axes; '' if there are none."""
        return self._settings[run_id]


def _settings(cell: Sequence[Run]) -> dict[str, str]:
    """run_id -> the optimiser's settings that differ within the cell, as text."""
    flat = {run.run_id: dict(dotted(run.spec.optimizer.model_dump())) for run in cell}
    names = list(dict.fromkeys(name for fields in flat.values() for name in fields))
    varied = [name for name in names if len({repr(fields.get(name)) for fields in flat.values()}) > 1]
    return {run_id: ", ".join(f"{n} {_shown(fields.get(n))}" for n in varied) for run_id, fields in flat.items()}


def _shown(value: Any) -> str:
    return exactly(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def label_in(root: Path, run_id: str) -> str | None:
    """A run's label in a sweep that was launched into this results folder; None if no sweep has the run."""
    for path in sorted((root / "sweeps").glob("*/latest")):
        try:
            runs = latest_manifest(path.parent.name, root).runs
        except UserError:  # damaged: its other commands say so
            continue
        if any(run.run_id == run_id for run in runs):
            return RunLabels(runs).label(run_id)
    return None
