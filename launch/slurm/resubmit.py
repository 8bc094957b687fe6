"""Larger jobs for runs that ran out of a job's memory or time, submitted by that job at its end."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from launch.records.origin import Origin
from launch.records.policy import Growth
from launch.records.submission import Submission
from launch.slurm import commands
from launch.slurm.arrays import array_of
from launch.slurm.profile import Options
from launch.slurm.submit import submit
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.manifests import read_manifest


def submit_larger(
    path: Path, known: Submission, needs: Mapping[Growth, list[str]], run_task: Callable[[str], None]
) -> None:
    """Submit arrays for runs that need more than this launch's jobs have. Each run is submitted once.

    Where nodes cannot submit, or the site refuses such jobs, the job's log says so, and the next `launch` asks for them
    again where a person sees the answer.

    Args:
        path: the submission's file.
        needs: run ids by what they need.
        run_task: what each task calls.
    """
    if not commands.available():
        print("this node has no sbatch, so nothing larger was submitted; launch again", file=sys.stderr, flush=True)
        return
    for growth, run_ids in needs.items():
        marks = {run_id: path.parent / "larger" / f"{run_id}-{growth.memory or 1}-{growth.time}" for run_id in run_ids}
        ours = [run_id for run_id, mark in marks.items() if write_once(mark, "")]
        if ours:
            try:
                _submit(path, known, growth, ours, run_task)
            except UserError as error:
                print(f"nothing larger was submitted: {error}", file=sys.stderr, flush=True)


def _submit(path: Path, known: Submission, growth: Growth, run_ids: list[str], run_task: Callable[[str], None]) -> None:
    given, manifest = Options.recorded(known.options or {}), read_manifest(Path(known.manifest))
    if left_out := sorted({*(known.options or {}).get("sbatch", {})} - {*given.sbatch, *given.model_fields_set}):
        names = ", ".join(f"sbatch.{name}" for name in left_out)
        print(f"{names}: left out, since the profile's fields say it", file=sys.stderr, flush=True)
    each = math.ceil(len(run_ids) / given.max_parallel)
    done, folder = submit(
        manifest.name,
        Path(known.manifest),
        Path(known.root),
        known.profile,
        {known.option_set: given},
        array_of(known.option_set, given, (known.processes or 1, known.nodes), run_ids, each, growth),
        snapshot=known.snapshot,
        origin=Origin.read(path.parent),
        plugins=manifest.plugins,
        run_task=run_task,
    )
    print(f"larger jobs were submitted: {done.job_ids}, {folder}", flush=True)
