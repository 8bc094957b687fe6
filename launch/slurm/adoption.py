"""Jobs of launches that were killed between sbatch and its record: found by comment, script and logs, and recorded."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launch.records.job_arrays import RETURNED, Submitted, accepted_array, is_recorded, keys_of
from launch.records.submission import Submission
from launch.slurm import client
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.layout import sweep_folder, written_number
from tensloradist.users import owner_of_file, username

SETTLED_SECONDS = 900.0  # after which a submission without a job never gets one

_LOG = re.compile(r"(\d+)(_\d+)?_\d+_log\.(?:out|err)")


@dataclass
class _Slurm:
    """What Slurm says here of where jobs come from, asked once when it is first needed; None: no answer."""

    @cached_property
    def cluster(self) -> str | None:
        return client.cluster() if client.available() else None

    @cached_property
    def _origins(self) -> client.Origins | None:
        return client.origins() if client.available() else None

    def queued(self, logs: Path, known: Submission | None) -> dict[str, int] | None:
        """Its jobs in the queue; of another cluster's, this one knows nothing."""
        if (known and known.cluster not in (None, self.cluster)) or self._origins is None:
            return None
        return self._origins.of(logs)

    def is_mine(self, known: Submission | None) -> bool:
        """Whether its jobs would be seen here: on its own cluster, by its own user, whom no site hides them from."""
        return known is not None and known.cluster == self.cluster is not None and known.user == username()


def adopt(name: str, root: Path) -> list[tuple[Path, str]]:
    """Record the jobs of a sweep that no launch has put on record, so that every command knows them.

    Returns:
        (launch folder, key) of those that could not be recorded, since the folder is full or read-only.
    """
    slurm, left = _Slurm(), []
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*")):
        for path, index in unrecorded(folder):
            left += _adopt_one(folder, path, index, slurm)
    return left


def unrecorded(folder: Path) -> Iterator[tuple[Path, int]]:
    """(file, number) of each of a launch's submissions of whose jobs nothing is on record, unless none came to be."""
    for path in sorted(folder.glob("submission-*.json")):
        index = written_number(path.stem.removeprefix("submission-"))
        if index is not None and not (folder / RETURNED).exists() and not is_recorded(folder, index):
            yield path, index


def _adopt_one(folder: Path, path: Path, index: int, slurm: _Slurm) -> list[tuple[Path, str]]:
    logs, known = (folder / f"submitit-{index}").absolute(), None
    with suppress(UserError):
        known = Submission.read(path)
    queued = slurm.queued(logs, known)
    begun = {match.group(1): match.group(2) for file in logs.glob("*_log.*") if (match := _LOG.fullmatch(file.name))}
    jobs = sorted({*(queued or ()), *begun}, key=int)
    if not jobs:
        if queued is not None and slurm.is_mine(known) and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
            with suppress(OSError, UserError):
                write_once(folder / RETURNED, "no job is known of a submission\n")
        return []
    job = jobs[-1]
    tasks = (known and known.tasks) or (queued or {}).get(job, 1)
    # What only its logs tell of, without a word of the cluster, may be of any: each is asked then.
    cluster = (known and known.cluster) or (slurm.cluster if job in (queued or ()) else None)
    with suppress(OSError, UserError):
        if known is not None:
            array, user = accepted_array(job, tasks, known), known.user or owner_of_file(path)
            when, sources = path.stat().st_mtime, known.sources or ""
            found = Submitted(known.profile, user, "", when, None, sources, cluster=cluster)
            if found.record(folder, index, array):
                return []
    return [(folder, key) for key in keys_of(job, tasks)]
