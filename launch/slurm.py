"""Submission to Slurm: job arrays of workers through submitit, with the manifest and the submissions written first."""

from __future__ import annotations

import getpass
import json
import math
import shlex
import shutil
import socket
import statistics
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch import scheduler
from launch.plan import Plan, write_manifest
from launch.profile import Options, Profile
from launch.slurm_task import REQUEUE_CODE, run_task
from launch.submission import Submission
from launch.sweep import PlannedRun
from tensloradist.errors import UserError
from tensloradist.results.claims import highest_claim
from tensloradist.results.layout import RunFolder, sweep_folder, write_once
from tensloradist.results.publish import read_result

DURATIONS = 50  # finished runs that a duration is estimated from
PACKAGES = ("tensloradist", "launch", "analysis", "sweeps", "slurm")

# Slurm requeues by itself after a preemption or a lost node. This is for what it does not: a worker that was killed, or
# that stopped in time before the limit. Not for a cancelled job, whose state tells.
_AFTER = """\
code=$?
if {{ [ $code -ge 128 ] || [ $code -eq {code} ]; }} && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && \\
   scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit $code"""


@dataclass(frozen=True)
class Array:
    """One array to be submitted: so many tasks of one option set, for runs of so many processes."""

    options: str
    processes: int
    tasks: int
    runs: int
    runs_per_task: int | None


@dataclass(frozen=True)
class Submitted:
    """A launch that Slurm has accepted: `slurm.json`."""

    profile: str
    user: str
    host: str
    submitted: float
    arrays: list[dict[str, Any]] = field(default_factory=list)
    snapshot: str | None = None
    schema_version: int = 1


def arrays(runs: list[PlannedRun], sets: dict[str, Options], root: Path, runs_per_task: int | None) -> list[Array]:
    """The arrays that drain so many runs. Several option sets compete: each could drain them all."""
    limits = scheduler.limits()
    site = limits.max_array_size if limits and limits.max_array_size else None
    result = []
    for processes, number in sorted(Counter(run.spec.compute.processes for run in runs).items()):
        share = runs_per_task
        for name, options in sets.items():
            workers = options.workers if processes == 1 else 1
            each = share or options.runs_per_task or _share(runs, root, options, workers)
            tasks = math.ceil(number / each) if each else min(options.max_parallel, math.ceil(number / workers))
            most = min(options.max_array_size, site or options.max_array_size)
            for begin in range(0, tasks, most):
                result.append(Array(name, processes, min(most, tasks - begin), number, each))
    return result


def _share(runs: list[PlannedRun], root: Path, options: Options, workers: int) -> int | None:
    """Runs that fill a job's target time by the durations recorded for runs of the same task; None: not known yet."""
    seconds = []
    tasks = {run.spec.task.fingerprint for run in runs}
    for path in sorted((root / "runs").glob("*/result.json")):
        result = read_result(path)
        if result.fingerprints.data in tasks:
            seconds.append(result.times.total_seconds)
        if len(seconds) == DURATIONS:
            break
    if not seconds:
        return None
    target = 60 * (options.target_minutes or options.time_minutes / 2)
    return max(1, round(workers * target / max(statistics.median(seconds), 0.1)))


def executor(profile: Profile, options: Options, folder: Path, name: str, processes: int = 1, **overrides: Any) -> Any:
    """A submitit executor with everything that an option set asks for.

    Raises:
        UserError: no Slurm on this machine.
    """
    import submitit

    if not scheduler.available():
        raise UserError(
            f"profile {profile.name}: no Slurm on this machine (sbatch is not on the PATH); launch from a login node, "
            "or without --profile to train here"
        )
    nodes, tasks = options.layout(processes)
    python = shlex.quote(sys.executable)
    made = submitit.SlurmExecutor(folder, python=f"{options.container} {python}" if options.container else python)
    asked: dict[str, Any] = {
        "job_name": name,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "time": options.time_minutes,
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": options.cpus_per_worker * (options.workers if processes == 1 else 1),
        "gpus_per_node": options.gpus_per_node or None,
        "mem": f"{round(1024 * options.memory_gb)}M" if options.memory_gb else None,
        "signal_delay_s": options.signal_lead_seconds,
        "array_parallelism": options.max_parallel,
        "setup": _setup(options),
        "teardown": _AFTER.format(code=REQUEUE_CODE, restarts=options.max_restarts).splitlines(),
        "srun_args": ["--kill-on-bad-exit=1", *options.srun],
        "additional_parameters": {"requeue" if options.requeue else "no_requeue": True, **options.sbatch},
    }
    asked |= overrides
    parameters = {name: value for name, value in asked.items() if value is not None}
    made.update_parameters(**{k: v for k, v in parameters.items() if k != "mem"})
    if "mem" in parameters:
        made.parameters["mem"] = parameters["mem"]  # submitit's own conversion knows whole gigabytes only
    return made


def _setup(options: Options) -> list[str]:
    lines = list(options.setup)
    lines += [f"export {name}={shlex.quote(value)}" for name, value in options.environment.items()]
    # Since Slurm 22.05 srun does not take --cpus-per-task over from sbatch.
    return [*lines, 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"']


def submit(
    plan: Plan,
    runs: list[PlannedRun],
    root: Path,
    profile: Profile,
    sets: dict[str, Options],
    wanted: list[Array],
    snapshot: bool = False,
) -> tuple[Submitted, Path]:
    """Write the manifest and the submissions, then submit the arrays; returns what Slurm accepted and the folder.

    Raises:
        UserError: Slurm refuses an array; those before it are cancelled, and nothing is recorded as submitted.
    """
    import submitit

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder = (sweep_folder(root, plan.sweep.name) / "launches" / f"{stamp}-{uuid.uuid4().hex[:6]}").absolute()
    manifest = write_manifest(plan.sweep, root)
    baseline = {run.run_id: highest_claim(RunFolder(root, run.run_id)) for run in runs}
    code = _snapshot(folder) if snapshot else None
    accepted: list[dict[str, Any]] = []
    for index, array in enumerate(wanted):
        options = sets[array.options]
        workers = options.workers if array.processes == 1 else 1
        submission = Submission(
            str(manifest.absolute()),
            str(root.absolute()),
            options.cpus_per_worker,
            baseline=baseline,
            still_seconds=options.takeover_seconds,
            processes=array.processes,
            workers=workers,
            runs_per_worker=math.ceil(array.runs_per_task / workers) if array.runs_per_task else None,
            job_seconds=60.0 * options.time_minutes,
            lead_seconds=float(options.signal_lead_seconds),
            requeue=options.requeue,
            stage=options.stage,
            workers_per_gpu=options.workers_per_gpu if array.processes == 1 else 1,
        )
        path = folder / f"submission-{index}.json"
        write_once(path, submission.to_json())
        made = executor(profile, options, folder / f"submitit-{index}", plan.sweep.name, array.processes)
        if code is not None:
            made.parameters["setup"] = [*made.parameters["setup"], f"export PYTHONPATH={shlex.quote(str(code))}"]
        try:
            jobs = made.map_array(run_task, [str(path)] * array.tasks)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            scheduler.cancel([entry["job_id"] for entry in accepted])
            said = str(error.__cause__ or error).strip().splitlines()[-1]
            raise UserError(
                f"profile {profile.name}, option set {array.options}: Slurm refused the job ({said}); nothing was "
                "submitted"
            ) from error
        accepted.append(
            {
                "job_id": str(jobs[0].job_id).split("_")[0],
                "tasks": array.tasks,
                "options": array.options,
                "processes": array.processes,
                "runs": array.runs,
                "runs_per_task": array.runs_per_task,
                "workers_per_task": workers,
                "time_limit_minutes": options.time_minutes,
                "asked": {
                    "cpus": options.cpus_per_worker * workers,
                    "memory_gb": options.memory_gb,
                    "gpus_per_node": options.gpus_per_node,
                    "nodes": options.layout(array.processes)[0],
                },
            }
        )
    done = Submitted(
        profile.name, getpass.getuser(), socket.gethostname(), time.time(), accepted, str(code) if code else None
    )
    write_once(folder / "slurm.json", json.dumps(asdict(done), indent=1) + "\n")
    return done, folder


def _snapshot(folder: Path) -> Path:
    """A copy of this code, for jobs that must not see later edits."""
    from importlib.util import find_spec

    code = folder / "code"
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"--snapshot: the package {package} is not installed")
        source = next(iter(spec.submodule_search_locations))
        shutil.copytree(source, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    return code
