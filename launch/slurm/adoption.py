"""Jobs of launches that were killed before they could record them: found by comment, script and logs, and recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launch.records.job_arrays import RETURNED, Submitted, is_recorded, keys_of
from launch.records.submission import Submission
from launch.slurm import commands
from launch.slurm.accepted import accepted_array
from launch.slurm.logs import LOG
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.layout import sweep_folder, written_number
from tensloradist.users import owner_of_file, username

SETTLED_SECONDS = 900.0  # after which a submission without a job never gets one


@dataclass
class _Slurm:
    """Where jobs come from, as Slurm says when it is first needed; None: no answer."""

    @cached_property
    def cluster(self) -> str | None:
        return commands.cluster() if commands.available() else None

    @cached_property
    def _origins(self) -> commands.Origins | None:
        return commands.origins() if commands.available() else None

    def queued(self, logs: Path, known: Submission | None) -> dict[str, int] | None:
        """The submission's jobs in the queue; None without an answer, or if it is of another cluster."""
        if (known and known.cluster not in (None, self.cluster)) or self._origins is None:
            return None
        return self._origins.of(logs)

    def is_mine(self, known: Submission | None) -> bool:
        """Whether its jobs would be seen: from its own cluster, by its own user, from whom no site hides them."""
        return known is not None and known.cluster == self.cluster is not None and known.user == username()


def adopt(name: str, root: Path) -> list[tuple[Path, str]]:
    """Record the jobs of a sweep that no launch has recorded, so that every command knows them.

    Returns:
        (launch folder, key) of those that could not be recorded, since the folder is full or read-only.
    """
    slurm, left = _Slurm(), []
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*")):
        for path, index in unrecorded(folder):
            left += _adopt_one(folder, path, index, slurm)
    return left


def unrecorded(folder: Path) -> Iterator[tuple[Path, int]]:
    """(file, number) of each submission of a launch whose jobs are not on record, unless it is known to have none."""
    for path in sorted(folder.glob("submission-*.json")):
        index = written_number(path.stem.removeprefix("submission-"))
        if index is not None and not (folder / RETURNED).exists() and not is_recorded(folder, index):
            yield path, index


def _adopt_one(folder: Path, path: Path, index: int, slurm: _Slurm) -> list[tuple[Path, str]]:
    logs, known = (folder / f"submitit-{index}").absolute(), None
    with suppress(UserError):
        known = Submission.read(path)
    queued = slurm.queued(logs, known)
    begun = {match.group(1): match.group(2) for file in logs.glob("*_log.*") if (match := LOG.fullmatch(file.name))}
    jobs = sorted({*(queued or ()), *begun}, key=int)
    if not jobs:
        if queued is not None and slurm.is_mine(known) and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
            with suppress(OSError, UserError):
                write_once(folder / RETURNED, "no job is known of a submission\n")
        return []
    job = jobs[-1]
    tasks = (known and known.tasks) or (queued or {}).get(job, 1)
    # A job known only from its logs, without a recorded cluster, may be of any cluster.
    cluster = (known and known.cluster) or (slurm.cluster if job in (queued or ()) else None)
    with suppress(OSError, UserError):
        if known is not None:
            array, user = accepted_array(job, tasks, known), known.user or owner_of_file(path)
            when, sources = path.stat().st_mtime, known.sources or ""
            found = Submitted(known.profile, user, "", when, None, sources, cluster=cluster)
            if found.record(folder, index, array):
                return []
    return [(folder, key) for key in keys_of(job, tasks)]
