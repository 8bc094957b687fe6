"""Slurm's commands, each called under a time limit. An absent or silent daemon gives None, never an error.

squeue lists the jobs in the queue, and sacct those that have ended; both lag behind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.scheduler import Ended, Job, Limits, Usage, base_id
from launch.slurm.environment import question_environment
from launch.slurm.times import seconds_of
from tensloradist.results.jobs import JobRef
from tensloradist.users import username

TIMEOUT_SECONDS = 20.0
_MOST_JOBS = 400  # in one command line


@dataclass(frozen=True)
class Partition:
    """A partition's limits, and what its largest node has; None: no limit, or not known."""

    max_time_minutes: float | None
    nodes: int | None = None
    node_cpus: int | None = None
    node_memory_mb: int | None = None
    node_gpus: int | None = None


@dataclass(frozen=True, kw_only=True)
class SiteLimits(Limits):
    """The controller's limits.

    Attributes:
        enforces_accounts, enforces_qualities: whether it refuses accounts and QOS that accounting does not know.
    """

    partitions: dict[str, Partition] = field(default_factory=dict)
    enforces_accounts: bool = True
    enforces_qualities: bool = True


def available() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=question_environment()
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# squeue's long format has fields of fixed width. Only it has the restart count, and older versions put no separators
# between the fields. No field is asked for that is not used, since a site may have a hundred thousand jobs.
QUEUE_FIELDS = {"JobArrayID": 48, "State": 20, "RestartCnt": 8}


def queue() -> dict[str, Job] | None:
    """All jobs of the cluster that squeue knows, each element of an array by itself; None if it does not answer.

    All jobs are asked for at once, because squeue fails for a job that Slurm has forgotten, and because several users'
    jobs may share a results folder.
    """
    layout = ",".join(f"{name}:{width}" for name, width in QUEUE_FIELDS.items())
    output = _ask("squeue", "-r", "-h", "-a", "-O", layout)
    if output is None:
        return None
    jobs = (_queued(line) for line in output.splitlines() if line.strip())
    return {job.key: job for job in jobs}


def _queued(line: str) -> Job:
    parts, begin = [], 0
    for width in QUEUE_FIELDS.values():
        parts.append(line[begin : begin + width].strip())
        begin += width
    key, state, restarts = parts
    return Job(key, state, int(restarts) if restarts.isdigit() else 0)


def comment_of(folder: Path) -> str:
    """The comment that a job carries, by which it is found even if its submission was interrupted.

    Args:
        folder: submitit's, `launches/STAMP/submitit-N`.
    """
    return f"tensloradist:{folder.parent.name}/{folder.name}"


@dataclass(frozen=True)
class Origins:
    """Where the jobs in the queue come from: (job or array id, comment, path of the batch script) of each element."""

    jobs: tuple[tuple[str, str, str], ...]

    def of(self, folder: Path) -> dict[str, int]:
        """Job or array id -> its elements in the queue, of the jobs submitted from `launches/STAMP/submitit-N`.

        A site may replace comments, so the batch script's path counts, too.
        """
        mine = (j for j, mark, script in self.jobs if comment_of(folder) in mark.split() or _lies_in(script, folder))
        return dict(Counter(mine))

    def of_launch(self, folder: Path) -> list[str]:
        """The ids of the jobs submitted from a launch's folder."""
        mark, jobs = f"tensloradist:{folder.name}/", self.jobs
        found = (job for job, comment, script in jobs if mark in comment or _lies_in(script, folder))
        return list(dict.fromkeys(found))


def _lies_in(script: str, folder: Path) -> bool:
    return script.startswith(f"{folder}{os.sep}")


def origins() -> Origins | None:
    """Where all jobs in the queue come from; None if squeue does not answer.

    So a job is found that was accepted although its submission was interrupted before the id came back.
    """
    output = _ask("squeue", "-r", "-h", "-a", "-o", "%F|%k|%o")
    if output is None:
        return None
    lines = (line.split("|", 2) for line in output.splitlines())
    return Origins(tuple((line[0].strip(), line[1], line[2]) for line in lines if len(line) == 3))


def _current_key() -> str | None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """How often the job of this process was put back into the queue."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def current_job() -> JobRef | None:
    """The job that this process runs in; None outside of a job."""
    key = _current_key()
    if key is None:
        return None
    return JobRef(
        key=key,
        restart=restart_count(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME") or None,
        id=os.environ.get("SLURM_JOB_ID", key),
        array_id=os.environ.get("SLURM_ARRAY_JOB_ID"),
        array_index=os.environ.get("SLURM_ARRAY_TASK_ID"),
        partition=os.environ.get("SLURM_JOB_PARTITION"),
        nodes=os.environ.get("SLURM_JOB_NODELIST"),
        limits=_job_limits(),
    )


def _job_limits() -> dict[str, str]:
    names = {"cpus": "SLURM_CPUS_PER_TASK", "memory": "SLURM_MEM_PER_NODE", "gpus": "SLURM_GPUS_ON_NODE"}
    found = {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}
    begin, end = os.environ.get("SLURM_JOB_START_TIME"), os.environ.get("SLURM_JOB_END_TIME")
    if begin and end:  # newer than some sites' Slurm
        found["minutes"] = str(round((int(end) - int(begin)) / 60))
    return found


def seconds_left() -> float | None:
    """Seconds until the time limit of the job that this process is in; None outside of a job, or if it is not known.

    Slurm is asked, since the site or the user may have changed the profile's limit.
    """
    end, job = os.environ.get("SLURM_JOB_END_TIME", ""), _current_key()  # the former since Slurm 23.02
    if end.isdecimal():
        return max(float(end) - time.time(), 0.0)
    output = _ask("squeue", "-h", "-j", job, "-o", "%L") if job else None
    return seconds_of(output) if output else None


def cluster() -> str | None:
    """The name of the cluster that Slurm's commands are about here; None if it is not known."""
    if named := os.environ.get("SLURM_CLUSTER_NAME"):
        return named
    found = re.search(r"^ClusterName\s*=\s*(\S+)", _ask("scontrol", "show", "config") or "", re.MULTILINE)
    return found.group(1) if found else None


def ended(job_ids: Iterable[str]) -> dict[str, Job] | None:
    """sacct's last record of each job or array element; None if it does not answer."""
    ids = sorted({base_id(key) for key in job_ids})
    found: dict[str, Job] = {}
    for begin in range(0, len(ids), _MOST_JOBS):
        fields = "JobID,State,ExitCode"
        output = _ask("sacct", "-n", "-P", "-X", "-j", ",".join(ids[begin : begin + _MOST_JOBS]), "-o", fields)
        if output is None:
            return None
        for line in output.splitlines():
            key, state, *code = line.split("|")
            found[key] = Job(key, state.split()[0], end=_end(code[0]) if code and code[0] else None)
    return found


def _end(code: str) -> str:
    """'exit code 127' or 'signal 9' of Slurm's '127:0' and '0:9'."""
    exit_code, _, signal = code.partition(":")
    if signal == "53":
        return "the node could not open the job's files"
    return f"signal {signal}" if signal not in ("", "0") else f"exit code {exit_code}"


def end_of(key: str, restart: int) -> Ended | None:
    """How a job or array element ended at a restart count; None: no record, or no answer.

    Where Slurm enforces memory by polling, the state is FAILED, so the memory used is compared with the memory asked.
    """
    output = _ask("sacct", "-n", "-P", "-D", "-j", key, "-o", "JobID,State,AllocTRES,MaxRSS")
    restarts: list[Ended] = []
    memory = 0.0
    for name, state, tres, peak in (line.split("|") for line in (output or "").splitlines()):
        if "." not in name:
            given = re.search(r"mem=([\d.]+[KMGT]?)", tres)
            memory = _bytes(given.group(1)) if given else 0.0
            restarts.append(Ended(state.split()[0]))
        elif restarts and memory and peak and _bytes(peak) > memory:
            restarts[-1] = replace(restarts[-1], over_memory=True)
    return restarts[restart] if restart < len(restarts) else None


def cancel(keys: Iterable[str]) -> str | None:
    """Cancel jobs or array elements; None if Slurm accepts it, else its message."""
    wanted = list(keys)
    if not wanted:
        return None
    try:
        done = subprocess.run(
            ["scancel", *wanted], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=question_environment()
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()


def limits() -> SiteLimits | None:
    """The controller's limits; None if it does not answer."""
    # -a: a partition that is hidden from this user's lists can still be named.
    config, shown = _ask("scontrol", "show", "config"), _ask("scontrol", "-a", "show", "partition", "-o")
    if config is None or shown is None:
        return None
    size = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
    largest = _largest_nodes()
    partitions = {}
    for line in shown.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if name := fields.get("PartitionName"):
            limit = seconds_of(fields.get("MaxTime", ""))
            minutes = None if limit is None else limit / 60
            partitions[name] = Partition(minutes, _integer(fields.get("TotalNodes")), *largest.get(name, ()))
    enforce = re.search(r"AccountingStorageEnforce\s*=\s*(\S+)", config)
    enforced = set(enforce.group(1).lower().split(",")) if enforce else {"all"}
    return SiteLimits(
        max_array_size=int(size.group(1)) if size else None,
        partitions=partitions,
        enforces_accounts=bool(enforced - {"none", "nojobs", "nosteps"}),
        enforces_qualities=bool(enforced & {"all", "qos"}),
    )


def _largest_nodes() -> dict[str, tuple[int, int, int]]:
    """Partition -> the most CPUs, MB and GPUs that one of its nodes has."""
    found: dict[str, tuple[int, int, int]] = {}
    for line in (_ask("sinfo", "-h", "-N", "-a", "-o", "%R|%c|%m|%G") or "").splitlines():
        name, cpus, memory, resources = line.split("|")
        gpus = sum(int(number) for number in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", resources))
        before = found.get(name, (0, 0, 0))
        found[name] = (max(before[0], int(cpus)), max(before[1], int(memory)), max(before[2], gpus))
    return found


def qualities() -> dict[str, bool] | None:
    """The site's QOS, and whether each lifts the partitions' time limits; None if accounting does not answer."""
    lines = (_ask("sacctmgr", "-n", "-P", "show", "qos", "format=name,flags") or "").splitlines()
    parts = (line.strip().partition("|") for line in lines)
    return {name: "PartitionTimeLimit" in flags.split(",") for name, _, flags in parts if name} or None


def accounts() -> set[str] | None:
    """The accounts that this user may charge; None if accounting does not answer."""
    output = _ask("sacctmgr", "-n", "-P", "show", "assoc", "where", f"user={username()}", "format=account")
    found = {line.strip() for line in (output or "").splitlines()} - {""}
    return found or None


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def usage(job_ids: Iterable[str]) -> list[Usage] | None:
    """What jobs that have begun used, each restart by itself; None if sacct does not answer."""
    ids = sorted({base_id(key) for key in job_ids})
    found = []
    for begin in range(0, len(ids), _MOST_JOBS):
        fields = "JobID,State,ElapsedRaw,TotalCPU,AllocCPUS,MaxRSS"
        output = _ask("sacct", "-n", "-P", "-D", "-j", ",".join(ids[begin : begin + _MOST_JOBS]), "-o", fields)
        if output is None:
            return None
        peaks: list[float] = []
        lines = [line.split("|") for line in output.splitlines()]
        for key, state, elapsed, cpu, cpus, peak in reversed(lines):  # a job's steps follow it
            if "." in key:
                peaks += [_bytes(peak)] if peak else []
                continue
            if float(elapsed or 0) > 0:
                used = Usage(
                    key=key,
                    state=state.split()[0],
                    elapsed_seconds=float(elapsed),
                    cpu_seconds=_cpu_seconds(cpu),
                    allocated_cpus=_integer(cpus),
                    peak_memory_bytes=max(peaks, default=None),
                )
                found.append(used)
            peaks = []
    return found[::-1]


def _bytes(text: str) -> float:
    """Bytes of sacct's 1234K, 5.6M, 7G."""
    factors = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return float(text[:-1]) * factors[text[-1]] if text[-1] in factors else float(text)


def _cpu_seconds(text: str) -> float | None:
    """Seconds of sacct's TotalCPU, which has fractions: 01:02:03 or 02:03.456."""
    whole, _, fraction = text.partition(".")
    seconds = seconds_of(whole)
    return None if seconds is None else seconds + float(f"0.{fraction or 0}")
