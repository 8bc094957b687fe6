"""Jobs of launches that were killed between sbatch and its record: found by comment, script and logs, and recorded."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launch import scheduler
from launch.accepted import RETURNED, Submitted, accepted_array, is_recorded, keys_of
from launch.submission import Submission
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.layout import sweep_folder
from tensloradist.users import owner_of_file

SETTLED_SECONDS = 900.0  # after which a submission without a job never gets one

_LOG = re.compile(r"(\d+)(_\d+)?_\d+_log\.(?:out|err)")


@dataclass
class _Queue:
    """What squeue says of where jobs come from, asked once when it is first needed; None: no answer."""

    asked: bool = False
    said: scheduler.Origins | None = None

    def of(self, folder: Path) -> dict[str, int] | None:
        if not self.asked:
            self.asked, self.said = True, scheduler.origins()
        return None if self.said is None else self.said.of(folder)


def adopt(name: str, root: Path) -> list[tuple[Path, str]]:
    """Record the jobs of a sweep that no launch has put on record, so that every command knows them.

    Returns:
        (launch folder, key) of those that could not be recorded, since the folder is full or read-only.
    """
    queue, unrecorded = _Queue(), []
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*")):
        for path in sorted(folder.glob("submission-*.json")):
            index = path.stem.removeprefix("submission-")
            if index.isdigit() and not (folder / RETURNED).exists() and not is_recorded(folder, int(index)):
                unrecorded += _adopt_one(folder, path, int(index), queue)
    return unrecorded


def _adopt_one(folder: Path, path: Path, index: int, queue: _Queue) -> list[tuple[Path, str]]:
    logs = (folder / f"submitit-{index}").absolute()
    queued = queue.of(logs) if scheduler.available() else None
    begun = {match.group(1): match.group(2) for file in logs.glob("*_log.*") if (match := _LOG.fullmatch(file.name))}
    jobs = sorted({*(queued or ()), *begun}, key=int)
    if not jobs:
        if queued is not None and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
            with suppress(OSError, UserError):
                write_once(folder / RETURNED, "no job is known of a submission\n")
        return []
    job, not_on_record = jobs[-1], []
    try:
        known = Submission.read(path)
        tasks = known.tasks or (queued or {}).get(job, 1)
        array = accepted_array(job, tasks, known)
        found = Submitted(
            known.profile,
            owner_of_file(path),
            "",
            path.stat().st_mtime,
            None,
            known.sources or "",
            cluster=scheduler.cluster(),
        )
        if found.record(folder, index, array):
            return []
        not_on_record = keys_of(job, tasks)
    except (OSError, UserError):
        not_on_record = keys_of(job, (queued or {}).get(job, 1))
    return [(folder, key) for key in not_on_record]
