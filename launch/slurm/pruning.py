"""Removal of files that a sweep's earlier launches have left and that are no longer read once their jobs are gone.

Clusters limit the number of files, and an array of a thousand tasks leaves about five thousand. The record of the
launch stays: what Slurm accepted, the submissions, the workers' last states, and every log that is not empty.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from launch.records.job_arrays import launches
from launch.scheduler import base_id, living
from launch.slurm import commands
from launch.slurm.adoption import SETTLED_SECONDS, adopt, unrecorded
from tensloradist.users import username

OF_JOBS = ("submitit-*/*.pkl", "submitit-*/*.sh", "submitit-*/.submission_file_*.sh", "larger/*", "boards/*/*")
IF_EMPTY = ("*.err", "submitit-*/*.err", "submitit-*/*.out")
MARK = "pruned"


def prune(name: str, root: Path) -> int:
    """Remove such files of this user's launches on this cluster; returns their number, 0 if Slurm does not answer.

    A launch is left alone if it may still submit, or if its jobs or their cluster are not on record.
    """
    adopt(name, root)
    own = ((folder, record) for folder, record in launches(name, root) if record.user == username())
    left = [(folder, record) for folder, record in own if not (folder / MARK).exists() and _is_over(folder)]
    cluster = commands.cluster() if left else None
    ended = [(folder, record) for folder, record in left if cluster is not None and record.cluster == cluster]
    queued = living([job for _, record in ended for job in record.job_ids], commands.queue)
    if queued is None:
        return 0
    alive = {base_id(key) for key in queued}
    removed = 0
    for folder, record in ended:
        if any(job in alive for job in record.job_ids):
            continue
        files = [path for pattern in OF_JOBS for path in folder.glob(pattern)]
        files += [path for pattern in IF_EMPTY for path in folder.glob(pattern) if _is_empty(path)]
        for path in files:
            path.unlink(missing_ok=True)  # another launch may be pruning, too
        shutil.rmtree(folder / "code", ignore_errors=True)
        (folder / MARK).touch()
        removed += len(files)
    return removed


def _is_over(folder: Path) -> bool:
    """Whether all jobs of a launch are on record, and it submits no more."""
    if any(unrecorded(folder)):
        return False
    newest = max((path.stat().st_mtime for path in folder.glob("submission-*.json")), default=0.0)
    return (folder / "slurm.json").exists() or time.time() - newest > SETTLED_SECONDS


def _is_empty(path: Path) -> bool:
    """Whether a file is empty, or gone since it was listed."""
    try:
        return not path.stat().st_size
    except FileNotFoundError:
        return True
