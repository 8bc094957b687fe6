"""Submission to Slurm: job arrays of workers through submitit, each array recorded as soon as it is accepted."""

from __future__ import annotations

import math
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from launch.records.job_arrays import RETURNED, Submitted
from launch.records.origin import Origin
from launch.records.submission import Submission
from launch.scheduler import JobRefused, JobRequest
from launch.slurm import batch, commands
from launch.slurm.accepted import accepted_array
from launch.slurm.arrays import Array
from launch.slurm.profile import Options
from launch.worker.signals import held_back
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.claims import highest_claim
from tensloradist.results.layout import RunFolder, new_launch_folder
from tensloradist.sources import PACKAGES, commit, copy_code, job_hash
from tensloradist.users import username


def submit(
    name: str,
    manifest: Path,
    root: Path,
    profile: str,
    sets: Mapping[str, Options],
    wanted: list[Array],
    snapshot: bool = False,
    origin: Origin | None = None,
    plugins: Sequence[str] = (),
    *,
    run_task: Callable[[str], None],
) -> tuple[Submitted, Path]:
    """Submit the arrays, each recorded as soon as it is accepted; returns the record, and the launch's folder.

    Args:
        name: the sweep's.
        sets: the profile's option sets as it gives them, by the names that arrays have.
        origin: what is recorded as the launch's.
        plugins: the modules that the runs name.
        run_task: what each task calls.

    Raises:
        UserError: Slurm refuses an array. Whatever ends a submission early, the arrays accepted by then are cancelled,
            or named where that fails.
    """
    folder = new_launch_folder(root, name)
    code, sources = _snapshot(folder, plugins) if snapshot else None, job_hash(plugins)
    at_once = sum(min(array.tasks, array.parallel) * _workers(array, sets) for array in wanted)
    done = _nothing_yet(profile, sources, code)
    ids: list[str] = []
    if origin is not None:
        origin.write(folder)
    try:
        for index, array in enumerate(wanted):
            path = folder / f"submission-{index}.json"
            known = _submission(manifest, root, done, sets[array.options], array, at_once)
            write_once(path, known.to_json())
            request = JobRequest(
                name=name,
                run=run_task,
                submission=path,
                tasks=array.tasks,
                parallel=array.parallel,
                logs=folder / f"submitit-{index}",
                code=code,
            )
            with held_back():
                ids.append(batch.submit(request))
                done = done.with_array(folder, accepted_array(ids[-1], array.tasks, known))
        done.write(folder)
    except JobRefused as error:
        what = f"profile {profile}, option set {array.options}: Slurm refused the job ({error})"
        raise UserError(f"{what}; {_withdrawn(ids, folder) or 'nothing was submitted'}") from error
    except BaseException:  # a full disk, Ctrl-C, a lost connection: no unknown jobs must stay behind
        if outcome := _withdrawn(ids, folder):
            print(f"The submission was cut short: {outcome}", file=sys.stderr, flush=True)
        raise
    return done, folder


def _nothing_yet(profile: str, sources: str, code: Path | None) -> Submitted:
    """The record of a submission that begins now."""
    return Submitted(
        profile,
        username(),
        socket.gethostname(),
        time.time(),
        commit(),
        sources,
        snapshot=str(code) if code else None,
        cluster=commands.cluster(),
    )


def _withdrawn(accepted: list[str], folder: Path) -> str | None:
    """Cancel the accepted jobs of a launch, and say what became of them; None if there were none.

    Args:
        accepted: the job ids that sbatch has returned. squeue lists other jobs whose scripts lie in the folder.
    """
    began = commands.origins()
    ids = list(dict.fromkeys([*accepted, *(began.of_launch(folder) if began else ())]))
    unsure = ""
    if began is None:
        unsure = "; squeue does not tell whether a job was accepted all the same: look for it with squeue --me"
    if not ids and began is None:
        return unsure.removeprefix("; ")
    refused = commands.cancel(ids)
    if refused is None:
        if began is not None:
            with suppress(OSError, UserError):  # so that no command looks for these jobs
                write_once(folder / RETURNED, "the submission was refused or taken back\n")
        if not ids:
            return None
        return f"jobs {', '.join(ids)}, which had been accepted, were cancelled{unsure}"
    left = f"jobs {', '.join(ids)} had been accepted and could not be cancelled ({refused})"
    return f"{left}; do it by hand: scancel {' '.join(ids)}{unsure}"


def _workers(array: Array, sets: Mapping[str, Options]) -> int:
    """Workers of each of an array's tasks."""
    return sets[array.options].workers if array.processes == 1 else 1


def _submission(
    manifest: Path, root: Path, launch: Submitted, given: Options, array: Array, at_once: int
) -> Submission:
    """What the tasks of an array need to know; `at_once`: how many of the launch's workers can run at the same time."""
    options, several = given.grown(array.growth), array.processes > 1
    workers = 1 if several else options.workers
    return Submission(
        str(manifest.absolute()),
        str(root.absolute()),
        options.cpus_per_worker,
        baseline={run_id: highest_claim(RunFolder(root, run_id)) for run_id in array.run_ids},
        still_seconds=options.takeover_seconds,
        processes=array.processes,
        nodes=array.nodes,
        workers=workers,
        launch_workers=at_once,
        runs_per_worker=math.ceil(array.runs_per_task / workers) if array.runs_per_task else None,
        job_seconds=60.0 * options.time_minutes,
        lead_seconds=float(options.signal_lead_seconds),
        requeue=options.requeue,
        stage=options.stage,
        workers_per_gpu=1 if several else options.sharing_gpu,
        sources=launch.sources,
        snapshot=launch.snapshot is not None,
        profile=launch.profile,
        option_set=array.options,
        options=given.model_dump(mode="json"),
        growth=array.growth.of(given.memory_gb),
        tasks=array.tasks,
        cluster=launch.cluster,
        user=launch.user,
    )


def _snapshot(folder: Path, plugins: Sequence[str]) -> Path:
    """A copy of this code and of the plugins' code, for jobs that must not see later edits."""
    copy_code((*PACKAGES, *plugins), folder / "code")
    return folder / "code"
