"""The environment in which Slurm's commands are called: the caller's, without variables that change their meaning.

SBATCH_… variables override the options in the batch script, and sbatch passes all other variables on to the job. A
terminal of a notebook server, salloc, srun and a job have variables of their own allocation and step; in a new job they
would become options of its srun, and the identity of its tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from launch.slurm.profile import Options

# Slurm's configuration, the cluster that its commands address, and the user's token do not belong to an allocation.
_OF_THE_SITE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
_OF_AN_ALLOCATION = ("SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SUBMITIT_")
# Process launchers set these to tell a process its rank, and the address of the first one.
_OF_A_STEP = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "HYDI_", "TORCHELASTIC_")
_NAMES_OF_A_STEP = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
)
_BINDINGS = ("SBATCH_MEM_BIND", "SBATCH_CPU_BIND")
_FOLDERS = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")  # belong to an allocation if they are named after its job
_OF_QUESTIONS = ("SQUEUE_", "SACCT_", "SACCTMGR_", "SCANCEL_", "SCONTROL_", "SINFO_")  # filters and formats

# Variables that are not named after the option that they give.
_VARIABLES = {
    "time": ("SBATCH_TIMELIMIT",),
    "array": ("SBATCH_ARRAY_INX",),
    "mem": ("SBATCH_MEM_PER_NODE",),
    "switches": ("SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"),
    "cpu-freq": ("SBATCH_CPU_FREQ_REQ",),
    "bb": ("SBATCH_BURST_BUFFER",),
}
# Options that exclude each other: giving one of them rules out the others.
_ALTERNATIVES = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("requeue", "no-requeue"),
    ("exclusive", "oversubscribe"),
)
# Variables that are never used, whatever the profile says.
_NEVER = {
    "SBATCH_WAIT": "the command returns as soon as the jobs are submitted",
    "SBATCH_EXPORT": "jobs have the variables that the launch was checked with; `sbatch: {export: …}` of a profile "
    "says otherwise",
    "SBATCH_GET_USER_ENV": "jobs have the variables that the launch was checked with",
    "SBATCH_CLUSTERS": "set SLURM_CLUSTERS, which squeue and scancel know, too",
    "SBATCH_DEBUG": "only the answer of sbatch is read",
    "SBATCH_TEST_ONLY": "`launch --dry-run` submits nothing",
    "SBATCH_PARSABLE": "only the answer of sbatch is read",
    "SBATCH_QUIET": "the answer of sbatch holds the job's id",
}


def submission_environment(options: Options, caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables for sbatch and the job: the caller's, except its allocation's and those that override options."""
    dropped = _overrides(options, caller)
    return {name: value for name, value in caller.items() if name not in dropped and not _is_of_a_job(name, caller)}


def question_environment(caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables for squeue, sacct, scancel, scontrol and sinfo: the caller's, except filters and formats."""
    return {
        name: value
        for name, value in caller.items()
        if not name.startswith(_OF_QUESTIONS) and not (name.startswith("SLURM_") and _is_of_a_job(name, caller))
    }


def left_open(options: Options, caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The caller's SBATCH_… variables that take effect, because the option set does not set their options."""
    known = submission_environment(options, caller)
    return {name: value for name, value in sorted(known.items()) if name.startswith("SBATCH_")}


def completed(options: Options, caller: Mapping[str, str] = os.environ) -> Options:
    """The option set, with the caller's partition, account, QOS and constraint where it does not set them."""
    given = left_open(options, caller)
    fields = ("partition", "account", "qos", "constraint")
    return options.model_copy(
        update={field: given[name] for field in fields if (name := f"SBATCH_{field.upper()}") in given}
    )


def environment_notes(options: Options, caller: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each SBATCH_… variable: that it is used, or why it is not."""
    notes = [
        f"{name}={caller[name]} is not used: {why}" for name, why in sorted(_overrides(options, caller).items()) if why
    ]
    return notes + [
        f"{name}={value} is left to sbatch, because the profile does not say it"
        for name, value in left_open(options, caller).items()
    ]


def _overrides(options: Options, caller: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables that would override an option -> why they are not used; '' if the option is the same."""
    asked = _asked(options)
    found = {}
    for name in caller:
        if not name.startswith("SBATCH_"):
            continue
        if name in _NEVER:
            found[name] = _NEVER[name]
            continue
        option = next((option for option, names in _VARIABLES.items() if name in names), None)
        option = option or name.removeprefix("SBATCH_").lower().replace("_", "-")
        # Only the GPUs of a --gres compete with the other options for GPUs.
        group = "gpus-per-node" if option == "gres" and "gpu" in caller[name] else option
        rivals = {group, *(rival for others in _ALTERNATIVES if group in others for rival in others)}
        given = next((rival for rival in (option, *sorted(rivals)) if rival in asked), None)
        if given is not None:
            same = given == option and str(asked[given]) == caller[name]
            found[name] = "" if same else f"jobs are submitted {_shown(given, asked[given])}"
    return found


def _shown(option: str, value: Any) -> str:
    if value is None:
        return f"with an --{option} of their own"
    if value is False:
        return f"without --{option}"
    return f"with --{option}" if value is True else f"with --{option}={value}"


def _asked(options: Options) -> dict[str, Any]:
    """The options that sbatch gets for this option set, by name; None: each job has its own value."""
    given: dict[str, Any] = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "mem": f"{options.memory_gb:g}G" if options.memory_gb else None,
        "gpus-per-node": options.gpus_per_node or None,
    }
    chosen = {option: value for option, value in given.items() if value is not None}
    always = {
        **dict.fromkeys(("array", "job-name", "output", "error", "input", "open-mode")),
        "time": options.time_minutes,
        "signal": f"USR2@{options.signal_lead_seconds}",
        "cpus-per-task": options.cpus_per_worker * options.workers,
        "requeue" if options.requeue else "no-requeue": True,
    }
    return {**always, **chosen, **{name.replace("_", "-"): value for name, value in options.sbatch.items()}}


def _is_of_a_job(name: str, caller: Mapping[str, str]) -> bool:
    """Whether the variable belongs to the allocation or step in which the caller runs, if there is one."""
    if name in _OF_THE_SITE or name.startswith("PMIX_MCA_"):  # the latter configure an MPI library
        return False
    if name in _FOLDERS:
        job = caller.get("SLURM_JOB_ID")
        return job is not None and re.search(rf"(?<!\d){re.escape(job)}(?!\d)", caller[name]) is not None
    if name.startswith(_BINDINGS):  # outside of an allocation the user's choice, within one the allocation's
        return "SLURM_JOB_ID" in caller
    return name in _NAMES_OF_A_STEP or name.startswith((*_OF_AN_ALLOCATION, *_OF_A_STEP))
