"""Larger jobs for runs that ran out of a job's memory or time: submitted by the job that found it out, at its end."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from launch import scheduler
from launch.arrays import array_of
from launch.origin import Origin
from launch.policy import Growth
from launch.profile import Options
from launch.slurm import submit
from launch.submission import Submission
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.manifests import read_manifest


def submit_larger(path: Path, known: Submission, needs: Mapping[Growth, list[str]]) -> None:
    """Submit arrays for runs that need more than this launch's jobs have: each run by one job alone.

    Where nodes cannot submit, or the site refuses so much, this is said in the job's log, and the next `launch` asks
    for it again, before a person's eyes.

    Args:
        path: the submission's file.
        needs: run ids by what they need.
    """
    if not scheduler.available():
        print("this node has no sbatch, so nothing larger was submitted; launch again", file=sys.stderr, flush=True)
        return
    for growth, run_ids in needs.items():
        marks = {run_id: path.parent / "larger" / f"{run_id}-{growth.memory or 1}-{growth.time}" for run_id in run_ids}
        ours = [run_id for run_id, mark in marks.items() if write_once(mark, "")]
        if ours:
            _submit(known, growth, ours, Origin.read(path.parent))


def _submit(known: Submission, growth: Growth, run_ids: list[str], origin: Origin | None) -> None:
    given, manifest = Options.model_validate(known.options), read_manifest(Path(known.manifest))
    each = math.ceil(len(run_ids) / given.max_parallel)
    arrays = array_of(known.option_set, given, (known.processes or 1, known.nodes), run_ids, each, growth)
    try:
        done, folder = submit(
            manifest.name,
            Path(known.manifest),
            Path(known.root),
            known.profile,
            {known.option_set: given},
            arrays,
            snapshot=known.snapshot,
            origin=origin,
            plugins=manifest.plugins,
        )
    except UserError as error:
        print(f"nothing larger was submitted: {error}", file=sys.stderr, flush=True)
        return
    print(f"larger jobs were submitted: {[array['job_id'] for array in done.arrays]}, {folder}", flush=True)
