"""The jobs of a sweep's launches on record: a file for each job array, and `slurm.json` once all are submitted.

An array's file is written as soon as the scheduler has accepted it, so that every command knows the jobs of an
interrupted launch; these files are read where the summary is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tensloradist.files import write_once
from tensloradist.records import FORM, UnreadableRecord, read_record
from tensloradist.results.layout import sweep_folder, written_number

RETURNED = "returned"  # in a launch's folder: what it submitted was refused or taken back, or never came to be


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What each task of an array was given; memory_gb None: the site's default."""

    cpus: int
    memory_gb: float | None
    gpus_per_node: int
    nodes: int


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """An array of alike jobs, or a single job, that the scheduler has accepted.

    Attributes:
        options: the name of the profile's option set.
        processes: of each run.
        runs: how many the tasks share.
        runs_per_task: a task ends after this many; None: when no run is left.
    """

    job_id: str
    tasks: int
    options: str
    processes: int
    runs: int
    runs_per_task: int | None
    workers_per_task: int
    time_limit_minutes: float
    asked: Asked

    @property
    def keys(self) -> list[str]:
        """The keys of its elements, as the scheduler names them."""
        return keys_of(self.job_id, self.tasks)


@dataclass(frozen=True)
class Submitted:
    """The jobs of a launch (`slurm.json`), or one array of them (`accepted-N.json`).

    Attributes:
        submitted: unix seconds.
        sources: the hash of the code that was submitted.
        snapshot: the folder with a copy of that code; None: the jobs run the installed code.
        cluster: where the job ids mean something; None: not known, or from before it was recorded.
    """

    profile: str
    user: str
    host: str
    submitted: float
    commit: str | None
    sources: str
    arrays: list[JobArray] = field(default_factory=list)
    snapshot: str | None = None
    schema_version: int = 1
    cluster: str | None = None
    __pydantic_config__ = FORM

    @property
    def job_ids(self) -> list[str]:
        return [array.job_id for array in self.arrays]

    def is_of(self, cluster: str | None) -> bool:
        """Whether a cluster can be asked about the jobs: they are its own, or their cluster is not on record."""
        return self.cluster in (None, cluster)

    def with_array(self, folder: Path, array: JobArray) -> Submitted:
        """The same with one array more, which is on record now."""
        self.record(folder, len(self.arrays), array)
        return replace(self, arrays=[*self.arrays, array])

    def record(self, folder: Path, index: int, array: JobArray) -> bool:
        """Put one array of the launch on record; False if there is a record of it already."""
        return write_once(folder / f"accepted-{index}.json", _text(replace(self, arrays=[array])))

    def write(self, folder: Path) -> None:
        """The summary."""
        write_once(folder / "slurm.json", _text(self))


def _text(submitted: Submitted) -> str:
    return json.dumps(asdict(submitted), indent=1) + "\n"


def read_launches(name: str, root: Path) -> tuple[list[tuple[Path, Submitted]], list[UnreadableRecord]]:
    """(folder, jobs) of each launch of a sweep that has jobs, oldest first; and the records that cannot be read.

    The arrays' own records are read where the summary is damaged, or missing because the launch was interrupted.
    """
    found: list[tuple[Path, Submitted]] = []
    unreadable: list[UnreadableRecord] = []
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*")):
        parts = _read([folder / "slurm.json"], unreadable)
        if not parts:
            parts = _read(sorted(folder.glob("accepted-*.json"), key=_number), unreadable)
        if parts:
            found.append((folder, replace(parts[0], arrays=[array for part in parts for array in part.arrays])))
    return found, unreadable


def _read(paths: list[Path], unreadable: list[UnreadableRecord]) -> list[Submitted]:
    parts = []
    for path in paths:
        try:
            part = read_record(path, Submitted, "the record of accepted jobs")
        except UnreadableRecord as error:
            unreadable.append(error)
            continue
        if part is not None:
            parts.append(part)
    return parts


def launches(name: str, root: Path) -> Iterator[tuple[Path, Submitted]]:
    """(folder, jobs) of each launch of a sweep that has jobs, oldest first, interrupted launches included."""
    yield from read_launches(name, root)[0]


def _number(path: Path) -> int:
    number = written_number(path.stem.removeprefix("accepted-"))
    return -1 if number is None else number


def is_recorded(folder: Path, index: int) -> bool:
    """Whether there is a readable record of the jobs of one of a launch's submissions."""
    return bool(_read([folder / "slurm.json"], []) or _read([folder / f"accepted-{index}.json"], []))


def keys_of(job: str, tasks: int) -> list[str]:
    """The keys of a job's elements, as `Scheduler.submit` names them; of one task, the job's id."""
    return [job] if tasks == 1 else [f"{job}_{task}" for task in range(tasks)]


def elements(name: str, root: Path, cluster: str | None) -> Iterator[tuple[Path, str]]:
    """(launch folder, key) of each job or array element of this cluster that was submitted."""
    for folder, submitted in launches(name, root):
        for array in submitted.arrays if submitted.is_of(cluster) else ():
            yield from ((folder, key) for key in array.keys)


def jobs_elsewhere(name: str, root: Path, cluster: str | None) -> dict[str, list[str]]:
    """Other clusters' names -> the ids of the sweep's jobs there, which this cluster does not know."""
    found: dict[str, list[str]] = {}
    for _, submitted in launches(name, root):
        if submitted.cluster is not None and not submitted.is_of(cluster):
            found.setdefault(submitted.cluster, []).extend(submitted.job_ids)
    return found
