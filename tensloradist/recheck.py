"""Whether finished runs were scored on the labels that their data have, by the predictions that they keep.

Earlier versions kept what they had read of local data by path and time of modification. A run that was trained after
the file had been replaced, its time kept, has the new data's fingerprint and the old data's labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_run
from tensloradist.results.retract import retract
from tensloradist.results.standing import standing
from tensloradist.terminal import say

if TYPE_CHECKING:
    from tensloradist.results.schema import Result
    from tensloradist.spec import RunSpec
    from tensloradist.tasks import LoadedTask

Labels = dict[str, tuple[list[str], np.ndarray]]  # part -> the examples' ids and labels
_PARTS = ("validation", "test")


@dataclass
class Recheck:
    """What a comparison found, by run id.

    Attributes:
        agreed: runs whose labels are those of their data.
        differing: what differs.
        unchecked: why a run could not be compared.
    """

    agreed: list[str] = field(default_factory=list)
    differing: dict[str, str] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)


def check_labels(root: Path, take_back: bool = False) -> bool:
    """Compare the labels of all finished runs with those of their data, and print what was found.

    Args:
        take_back: retract results that differ, so that their runs are trained again.

    Returns:
        Whether no run is left whose labels differ.

    Raises:
        UserError: no such results folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such results folder; use --results")
    found = recheck(root)
    agreed = len(found.agreed)
    number = agreed + len(found.differing) + len(found.unchecked)
    mark = "FAILED" if found.differing else "ok" if agreed and not found.unchecked else "?"
    say(f"{mark:7} labels: {agreed} of {number} finished runs on local data were scored on the labels it has")
    for run_id, reason in found.unchecked.items():
        say(f"?       run {run_id} cannot be compared: {reason}")
    for run_id, difference in found.differing.items():
        say(f"FAILED  run {run_id}: {difference}; it was trained on data that was replaced")
        if take_back:
            say(f"        retracted: {retract(RunFolder(root, run_id))}; the next launch trains it again")
    if found.differing and not take_back:
        say("Add --retract to take these results back; the next launch then trains their runs again.")
    return take_back or not found.differing


def recheck(root: Path, texts: Mapping[str, RunSpec] | None = None) -> Recheck:
    """Compare finished runs of a results folder that were trained on data at a path. Each data set is read once.

    Args:
        texts: compare these runs alone, by id, and of them those on texts that an earlier version trained: texts are
            quickly read. None: all of the folder.
    """
    found = Recheck()
    known: dict[tuple[object, ...], Labels | UserError] = {}
    for run, spec, result in _finished(root, found) if texts is None else _earlier(root, texts):
        key = (spec.task, spec.backbone, spec.protocol)
        if key not in known:
            known[key] = _labels_now(spec)
        now = known[key]
        try:
            if isinstance(now, UserError):
                raise now
            difference = difference_to(recorded_labels(run.path, result), now)
        except UserError as error:
            found.unchecked[run.run_id] = str(error)
            continue
        if difference is None:
            found.agreed.append(run.run_id)
        else:
            found.differing[run.run_id] = f"{difference} ({spec.task.data})"
    return found


def _finished(root: Path, found: Recheck) -> Iterator[tuple[RunFolder, RunSpec, Result]]:
    for path in sorted((root / "runs").glob("*/result.json")):
        run = RunFolder(root, path.parent.name)
        try:
            spec, result = read_run(run.path)
        except UserError as error:
            found.unchecked[run.run_id] = str(error)
            continue
        if spec.task.data is not None and result.state == "finished":
            yield run, spec, result


def _earlier(root: Path, specs: Mapping[str, RunSpec]) -> Iterator[tuple[RunFolder, RunSpec, Result]]:
    """Of these runs, those on local texts with a result from before results said which variables choose kernels."""
    from tensloradist.tasks import TASKS

    for run_id, spec in specs.items():
        run = RunFolder(root, run_id)
        if spec.task.data is None or TASKS[spec.task.name].kind != "text":
            continue
        result = standing(run).result
        if result is not None and result.state == "finished" and "environment" not in result.provenance:
            yield run, spec, result


def _labels_now(spec: RunSpec) -> Labels | UserError:
    from tensloradist import tasks
    from tensloradist.plugins import load_plugins

    try:
        load_plugins(spec.plugins)
        return labels_of(tasks.load(spec.task, spec.backbone, spec.protocol))
    except UserError as error:
        return error


def labels_of(task: LoadedTask) -> Labels:
    return {part: (list(getattr(task, part).ids), np.asarray(getattr(task, part).labels)) for part in _PARTS}


def recorded_labels(run_folder: Path, result: Result) -> Labels:
    """The labels that a finished run was scored on.

    Raises:
        UserError: its file of predictions is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = _predictions(run_folder, result)
    try:
        with safe_open(str(path), framework="numpy") as file:
            ids = json.loads((file.metadata() or {})["ids"])
            return {part: (ids[part], file.get_tensor(f"{part}.labels")) for part in _PARTS if part in ids}
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as predictions ({error})") from error


def difference_to(recorded: Labels, now: Labels) -> str | None:
    """What differs between the labels of a run and those of its data, in words; None where they agree."""
    for part, (ids, labels) in recorded.items():
        ids_now, labels_now = now[part]
        if list(ids) != ids_now:
            return f"its {part} part has other examples than its data"
        if not np.array_equal(labels, labels_now):
            number = int((labels != labels_now).sum())
            return f"{number} of {len(labels)} labels of its {part} part are not those of its data"
    return None


def require_same_labels(run_folder: Path, result: Result, task: LoadedTask) -> None:
    """Raises UserError where a run that keeps its predictions was scored on other labels than its data has now."""
    if not _predictions(run_folder, result).is_file():
        return
    difference = difference_to(recorded_labels(run_folder, result), labels_of(task))
    if difference is not None:
        raise UserError(
            f"{run_folder}: {difference}; it was trained on data that was replaced. `tensloradist doctor --labels "
            "--retract` takes such results back"
        )


def _predictions(run_folder: Path, result: Result) -> Path:
    return run_folder / "attempts" / f"{result.attempt:04d}" / "predictions.safetensors"
