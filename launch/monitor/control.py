"""Steering a launched sweep: which of its runs are meant, holding and releasing them, cancelling its jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.monitor.status import collect
from launch.records.job_arrays import elements, jobs_elsewhere, read_launches
from launch.records.worker_status import is_at_work, read_words
from launch.slurm import client
from launch.slurm.adoption import adopt
from tensloradist.errors import UserError, unknown
from tensloradist.files import write_once
from tensloradist.results.holds import hold, release_hold
from tensloradist.results.layout import RunFolder
from tensloradist.results.schema import Manifest, ManifestRun
from tensloradist.results.standing import standing
from tensloradist.results.sweeps import FoundSweep


def chosen(manifest: Manifest, run_ids: list[str] | None = None, methods: list[str] | None = None) -> list[ManifestRun]:
    """The runs of a sweep that have one of the ids (or beginnings of ids) and one of the methods; all without either.

    Raises:
        UserError: an id or a method that the sweep does not have.
    """
    runs = list(manifest.runs)
    rows = sorted({run.row for run in runs})
    for method in methods or ():
        if method not in rows:
            raise UserError(unknown("method", method, rows))
    for wanted in run_ids or ():
        if not any(run.run_id.startswith(wanted) for run in runs):
            raise UserError(f"run {wanted!r}: the sweep {manifest.name} has none whose id begins so")
    return [
        run
        for run in runs
        if (not run_ids or any(run.run_id.startswith(wanted) for wanted in run_ids))
        and (not methods or run.row in methods)
    ]


def hold_runs(root: Path, runs: list[ManifestRun], reason: str) -> int:
    """Hold what has no result and is not held yet; returns how many."""
    folders = [RunFolder(root, run.run_id) for run in runs]
    return sum(hold(folder, reason) for folder in folders if not standing(folder).is_over)


def release_runs(root: Path, runs: list[ManifestRun]) -> int:
    """Release held runs; returns how many."""
    return sum(release_hold(RunFolder(root, run.run_id)) for run in runs)


@dataclass(frozen=True)
class Cancelled:
    """What was told to stop: Slurm jobs, and launches on some machine that look for a file.

    `elsewhere`: other clusters -> jobs there, whose workers look for such a file, too; those that wait do not.
    `unwritten`: files that tell workers to stop, and could not be written. `unreadable`: records of jobs that cannot be
    read, so that there may be jobs of which nothing is known.
    """

    jobs: list[str]
    local: int
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    unwritten: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def cancel(name: str, root: Path) -> Cancelled:
    """Stop a sweep's workers everywhere: the runs in progress end with a checkpoint, pending jobs disappear.

    Jobs are cancelled even where the results folder is full or read-only.

    Raises:
        UserError: Slurm does not answer, or refuses; the files that tell workers to stop are written by then.
    """
    unrecorded = adopt(name, root)
    found, unreadable = read_launches(name, root)
    submitted = {folder for folder, _ in (*found, *unrecorded)}
    cluster = client.cluster() if submitted else None
    ids = {key for _, key in (*elements(name, root, cluster), *unrecorded)}
    elsewhere = jobs_elsewhere(name, root, cluster)
    local, unwritten = 0, []
    # Before scancel, so that workers that Slurm signals know why.
    for folder in sorted((root / "sweeps" / name / "launches").glob("*")):
        if folder in submitted or is_at_work(*read_words(folder)):
            try:
                local += write_once(folder / "stop", "") and folder not in submitted
            except (OSError, UserError) as error:
                unwritten.append(f"{folder / 'stop'} ({getattr(error, 'strerror', None) or error})")
    problems = [str(error) for error in unreadable]
    if not ids and not (elsewhere and cluster is None):
        return Cancelled([], local, elsewhere, unwritten, problems)
    living = client.living(ids) if cluster else None
    if living is None:
        raise UserError(f"Slurm does not answer: its jobs were not cancelled, {_told(unwritten)}")
    keys = sorted(living)
    said = client.cancel(sorted({client.base_id(key) for key in keys}))
    if said is not None:
        raise UserError(f"Slurm refused to cancel: {said}; {_told(unwritten)}")
    return Cancelled(keys, local, elsewhere, unwritten, problems)


def _told(unwritten: list[str]) -> str:
    """What workers do by themselves where Slurm does not end them."""
    if not unwritten:
        return "but workers that run will stop by themselves"
    return f"and workers do not stop by themselves, since this could not be written: {', '.join(unwritten)}"


def failed_runs(sweep: FoundSweep, root: Path, cause: str | None) -> set[str]:
    """The ids of a sweep's runs whose last attempt failed, for one cause or any, whichever sweep it was of.

    Raises:
        UserError: a cause that no run failed for; names those that there are.
    """
    name = sweep.manifest.name
    failed = [run for run in collect(name, root, edited=sweep).runs if run.state == "failed"]
    causes = sorted({run.cause for run in failed if run.cause})
    if cause is not None and cause not in causes:
        raise UserError(
            f"--failed {cause}: no run of {name} failed for it; causes there: {', '.join(causes) or 'none'}"
        )
    return {run.run_id for run in failed if cause is None or run.cause == cause}
