"""Batch scripts: a submitit executor that asks Slurm for what an option set of a profile says."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from launch.records.policy import Growth
from launch.records.submission import Submission
from launch.scheduler import JobRefused, JobRequest, base_id
from launch.slurm import commands
from launch.slurm.environment import left_open, submission_environment
from launch.slurm.profile import Options
from tensloradist.errors import UserError

REQUEUE_CODE = 85  # the batch script puts the job back into the queue when a task ends with it, or by a signal
# Slurm requeues by itself after a preemption or a lost node. The script requeues after a worker was killed, or has
# stopped before the time limit; not after the job was cancelled, which its state shows.
_AFTER = """\
code=$?
if {{ [ $code -ge 128 ] || [ $code -eq {code} ]; }} && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && \\
   scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit $code"""


def submit(request: JobRequest) -> str:
    """Queue a job or an array that has the options of the request's submission; returns its id.

    Raises:
        JobRefused: Slurm refuses it.
        UserError: no Slurm on this machine.
    """
    import submitit

    known = Submission.read(request.submission)
    options = Options.recorded(known.options or {}).grown(known.growth or Growth())
    spread = (known.processes or 1, known.nodes)
    made = executor(
        known.profile, options, request.logs, request.name, spread, request.code, array_parallelism=request.parallel
    )
    try:
        jobs = made.map_array(request.run, [str(request.submission)] * request.tasks)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise JobRefused(refusal(error)) from error
    return base_id(jobs[0].job_id)


def executor(
    profile: str,
    options: Options,
    folder: Path,
    name: str,
    spread: tuple[int, int | None] = (1, None),
    code: Path | None = None,
    **more: Any,
) -> Any:
    """A submitit executor with everything that an option set asks for.

    Args:
        profile: its name, for messages.
        folder: submitit's own, a new one for each submission, since job ids can recur.
        spread: processes and nodes of the runs that the job trains.
        code: a copy of the code to run instead of the installed code.
        more: parameters of submitit that replace the option set's.

    Raises:
        UserError: no Slurm on this machine.
    """
    if not commands.available():
        raise UserError(
            f"profile {profile}: no Slurm on this machine (sbatch is not on the PATH); launch from a login node, "
            "or without --profile to train here"
        )
    from launch.slurm.sbatch import Sbatch

    python = shlex.quote(sys.executable)
    made = Sbatch(
        folder,
        python=f"{options.container} {python}" if options.container else python,
        environment=submission_environment(options),
    )
    asked = {"job_name": name, **_asked(options, folder, spread, code)}
    if "signal_delay_s" in more:
        asked["additional_parameters"]["signal"] = f"USR2@{more['signal_delay_s']}"
    asked |= more
    parameters = {name: value for name, value in asked.items() if value is not None}
    made.update_parameters(**{k: v for k, v in parameters.items() if k != "mem"})
    if "mem" in parameters:
        made.parameters["mem"] = parameters["mem"]  # submitit's own conversion knows whole gigabytes only
    return made


def _asked(options: Options, folder: Path, spread: tuple[int, int | None], code: Path | None) -> dict[str, Any]:
    """submitit's parameters for an option set; None: not given."""
    nodes, tasks = options.layout(*spread)
    return {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "time": options.time_minutes,
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": options.cpus_per_worker * (options.workers if spread[0] == 1 else 1),
        "gpus_per_node": options.gpus_per_node or None,
        "mem": f"{round(1024 * options.memory_gb)}M" if options.memory_gb else None,
        "signal_delay_s": options.signal_lead_seconds,
        "array_parallelism": options.max_parallel,
        "setup": _setup(options, code),
        "teardown": _AFTER.format(code=REQUEUE_CODE, restarts=options.max_restarts).splitlines(),
        # srun obeys SLURM_EXPORT_ENV, which a site or `sbatch --export` may set; tasks would lack submitit's variables.
        "srun_args": ["--kill-on-bad-exit=1", "--export=ALL", *options.srun],
        # A profile's own comment stays, since some sites charge by it.
        "comment": None if "comment" in options.sbatch else commands.comment_of(folder),
        "additional_parameters": {
            # The signal that tasks handle, whatever SUBMITIT_PREEMPT_SIGNAL says.
            "signal": f"USR2@{options.signal_lead_seconds}",
            "requeue" if options.requeue else "no_requeue": True,
            **{name: value for name, value in options.sbatch.items() if value is not False},
        },
    }


def refusal(error: Exception) -> str:
    """sbatch's message when it refused a job, from the exception that submitit made of it."""
    lines = str(error).strip().splitlines() or str(error.__cause__).strip().splitlines()
    return lines[-1].removeprefix("sbatch: ").removeprefix("error: ")


def _setup(options: Options, code: Path | None) -> list[str]:
    lines = list(options.setup)
    # The jobs submit larger jobs with the same variables, also where a site starts jobs without the caller's.
    variables = {**left_open(options), **options.environment}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if code is not None:
        # Otherwise Python would look first in the working directory, which may hold the code that was copied.
        lines.append(f'export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    # Since Slurm 22.05 srun does not take --cpus-per-task over from sbatch.
    return [*lines, 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"']
