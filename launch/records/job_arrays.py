"""What Slurm has accepted of a sweep's launches, as files: one for each job array, and `slurm.json` once all are in.

The former are written as soon as an array is accepted, so that jobs of a launch that was interrupted are known to every
command; where the summary is missing, they are what is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tensloradist.files import write_once
from tensloradist.records import FORM, UnreadableRecord, read_record
from tensloradist.results.layout import sweep_folder, written_number

RETURNED = "returned"  # in a launch's folder: what it submitted was refused or taken back, or never came to be


@dataclass(frozen=True)
class Submitted:
    """A launch that Slurm has accepted (`slurm.json`), or one array of it (`accepted-N.json`).

    `cluster`: where its job ids mean something; None: it was not known, or not recorded yet.
    """

    profile: str
    user: str
    host: str
    submitted: float
    commit: str | None
    sources: str
    arrays: list[dict[str, Any]] = field(default_factory=list)
    snapshot: str | None = None
    schema_version: int = 1
    cluster: str | None = None

    @property
    def job_ids(self) -> list[str]:
        return [array["job_id"] for array in self.arrays]

    def with_array(self, folder: Path, array: dict[str, Any]) -> Submitted:
        """The same with one array more, which is on record now."""
        self.record(folder, len(self.arrays), array)
        return replace(self, arrays=[*self.arrays, array])

    def record(self, folder: Path, index: int, array: dict[str, Any]) -> bool:
        """Put one array of the launch on record; False if there is a record of it already."""
        return write_once(folder / f"accepted-{index}.json", _text(replace(self, arrays=[array])))

    def write(self, folder: Path) -> None:
        """The summary."""
        write_once(folder / "slurm.json", _text(self))


def _text(submitted: Submitted) -> str:
    return json.dumps(asdict(submitted), indent=1) + "\n"


class _Asked(BaseModel):
    """What each task of an array was given."""

    model_config = ConfigDict(extra="allow")
    cpus: int
    memory_gb: float | None
    gpus_per_node: int
    nodes: int


class _Array(BaseModel):
    """One array of `Submitted.arrays`."""

    model_config = ConfigDict(extra="allow")
    job_id: str
    tasks: int
    options: str
    processes: int
    runs: int
    runs_per_task: int | None
    workers_per_task: int
    time_limit_minutes: float
    asked: _Asked


@dataclass(frozen=True)
class _Read(Submitted):
    """`Submitted` as it is read: its arrays are checked."""

    arrays: list[_Array] = field(default_factory=list)  # type: ignore[assignment]
    __pydantic_config__ = FORM


def read_launches(name: str, root: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[UnreadableRecord]]:
    """(folder, what Slurm accepted) of each launch of a sweep with jobs, oldest first, and what cannot be read of it.

    The arrays' own records are read where the summary is missing, since the launch was cut short, or damaged.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    unreadable: list[UnreadableRecord] = []
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*")):
        paths = [folder / "slurm.json"]
        if not (said := _read(paths, unreadable)):
            said = _read(sorted(folder.glob("accepted-*.json"), key=_number), unreadable)
        if said:
            found.append((folder, {**said[0], "arrays": [array for part in said for array in part["arrays"]]}))
    return found, unreadable


def _read(paths: list[Path], unreadable: list[UnreadableRecord]) -> list[dict[str, Any]]:
    said = []
    for path in paths:
        try:
            word = read_record(path, _Read, "the record of what Slurm accepted")
        except UnreadableRecord as error:
            unreadable.append(error)
            continue
        if word is not None:
            said.append({**vars(word), "arrays": [array.model_dump() for array in word.arrays]})
    return said


def launches(name: str, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, what Slurm accepted) of each launch of a sweep with jobs, oldest first; also where it was cut short."""
    yield from read_launches(name, root)[0]


def _number(path: Path) -> int:
    number = written_number(path.stem.removeprefix("accepted-"))
    return -1 if number is None else number


def is_recorded(folder: Path, index: int) -> bool:
    """Whether one of a launch's submissions has a record of its jobs that can be read."""
    return bool(_read([folder / "slurm.json"], []) or _read([folder / f"accepted-{index}.json"], []))


def keys_of(job: str, tasks: int) -> list[str]:
    """The keys of a job's elements, as `Scheduler.submit` names them; of one task, the job's id."""
    return [job] if tasks == 1 else [f"{job}_{task}" for task in range(tasks)]


def of_cluster(said: dict[str, Any], cluster: str | None) -> bool:
    """Whether a cluster can be asked about a launch's jobs: it is theirs, or theirs is not on record."""
    return said.get("cluster") in (None, cluster)


def elements(name: str, root: Path, cluster: str | None) -> Iterator[tuple[Path, str]]:
    """(launch folder, key) of each job or array element of this cluster that was submitted."""
    for folder, said in launches(name, root):
        for array in said["arrays"] if of_cluster(said, cluster) else ():
            yield from ((folder, key) for key in keys_of(array["job_id"], array["tasks"]))


def jobs_elsewhere(name: str, root: Path, cluster: str | None) -> dict[str, list[str]]:
    """Other clusters' names -> the ids of the sweep's jobs there, of which this one knows nothing."""
    found: dict[str, list[str]] = {}
    for _, said in launches(name, root):
        if not of_cluster(said, cluster):
            found.setdefault(said["cluster"], []).extend(array["job_id"] for array in said["arrays"])
    return found
