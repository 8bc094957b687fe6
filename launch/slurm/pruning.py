"""Pruning: what a sweep's earlier launches leave that nobody reads again once their jobs are gone.

Files are a quota on clusters, and an array of a thousand tasks leaves some five thousand. What tells of the launch
stays: what Slurm accepted, the submissions, the workers' last words, and every log that says something.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from launch.records.job_arrays import launches
from launch.slurm import client
from launch.slurm.adoption import SETTLED_SECONDS, adopt, unrecorded
from tensloradist.users import username

OF_JOBS = ("submitit-*/*.pkl", "submitit-*/*.sh", "submitit-*/.submission_file_*.sh", "larger/*", "boards/*/*")
IF_EMPTY = ("*.err", "submitit-*/*.err", "submitit-*/*.out")
MARK = "pruned"


def prune(name: str, root: Path) -> int:
    """Remove them from this user's launches here; returns how many files. Nothing goes while Slurm does not answer.

    A launch that may still submit, or of whose jobs not all are on record, or not their cluster, is left as it is.
    """
    adopt(name, root)
    own = ((folder, said) for folder, said in launches(name, root) if said.user == username())
    left = [(folder, said) for folder, said in own if not (folder / MARK).exists() and _is_over(folder)]
    cluster = client.cluster() if left else None
    ended = [(folder, said) for folder, said in left if cluster is not None and said.cluster == cluster]
    living = client.living([job for _, said in ended for job in said.job_ids]) if ended else {}
    if living is None:
        return 0
    alive = {client.base_id(key) for key in living}
    removed = 0
    for folder, said in ended:
        if any(job in alive for job in said.job_ids):
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
    """Whether all that a launch has submitted is on record, and it submits no more."""
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
