"""Questions to Slurm, each under a time limit: an absent or silent daemon is no answer (None), never an error.

squeue tells what lives, sacct what has ended; both lag, and neither decides whether a run is done (its result does).
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

from launch.slurm.environment import question_environment
from launch.slurm.times import seconds_of
from tensloradist.results.claims import slurm_job
from tensloradist.users import username

TIMEOUT_SECONDS = 20.0
_MOST_JOBS = 400  # in one command line


@dataclass(frozen=True)
class Job:
    """One job, or one element of an array, and how often it was put back into the queue.

    `code`: of one that has ended, Slurm's exit code and signal, '127:0'; None where it is not told.
    """

    key: str
    state: str
    restart: int = 0
    code: str | None = None


@dataclass(frozen=True)
class Partition:
    """A partition's limits; None: without, or not told. What a node has is its largest node's."""

    max_time_minutes: float | None
    nodes: int | None = None
    node_cpus: int | None = None
    node_memory_mb: int | None = None
    node_gpus: int | None = None


@dataclass(frozen=True)
class SiteLimits:
    """What the controller says of its limits.

    `enforces_accounts`, `enforces_qualities`: whether it refuses accounts and QOS that accounting does not know.
    """

    max_array_size: int | None
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


def base_id(key: str) -> str:
    """The job id of an array element's key: '1234' of '1234_5'."""
    return key.split("_")[0]


# squeue's long format, by fields of fixed width: one question tells the restart count, too, and older Slurms have no
# separators there. No more than is used: a site has a hundred thousand jobs at times.
QUEUE_FIELDS = {"JobArrayID": 48, "State": 20, "RestartCnt": 8}


def queue() -> dict[str, Job] | None:
    """Every job that this cluster's squeue knows, whoever's, array elements by themselves; None if it does not answer.

    One question for all, because asking for a job that Slurm has forgotten is an error, and because the jobs that
    share a results folder may be several users'.
    """
    layout = ",".join(f"{name}:{width}" for name, width in QUEUE_FIELDS.items())
    said = _ask("squeue", "-r", "-h", "-a", "-O", layout)
    if said is None:
        return None
    jobs = (_queued(line) for line in said.splitlines() if line.strip())
    return {job.key: job for job in jobs}


def _queued(line: str) -> Job:
    parts, begin = [], 0
    for width in QUEUE_FIELDS.values():
        parts.append(line[begin : begin + width].strip())
        begin += width
    key, state, restarts = parts
    return Job(key, state, int(restarts) if restarts.isdigit() else 0)


def living(job_ids: Iterable[str]) -> dict[str, Job] | None:
    """Those of the jobs that squeue knows, array elements by themselves; None if it does not answer."""
    wanted = {base_id(key) for key in job_ids}
    if not wanted:
        return {}
    known = queue()
    return None if known is None else {key: job for key, job in known.items() if base_id(key) in wanted}


def comment_of(folder: Path) -> str:
    """The comment that a job carries, by which it is known whatever became of its submission.

    Args:
        folder: submitit's, `launches/STAMP/submitit-N`.
    """
    return f"tensloradist:{folder.parent.name}/{folder.name}"


@dataclass(frozen=True)
class Origins:
    """Where the jobs that squeue knows come from: (job or array id, comment, batch script) of each element."""

    jobs: tuple[tuple[str, str, str], ...]

    def of(self, folder: Path) -> dict[str, int]:
        """Job or array id -> elements in the queue, of those submitted from `launches/STAMP/submitit-N`.

        A site may replace comments, so the batch script's place counts, too.
        """
        mine = (j for j, mark, script in self.jobs if comment_of(folder) in mark.split() or _lies_in(script, folder))
        return dict(Counter(mine))

    def of_launch(self, folder: Path) -> list[str]:
        """The ids of those submitted from a launch's folder."""
        mark, jobs = f"tensloradist:{folder.name}/", self.jobs
        found = (job for job, comment, script in jobs if mark in comment or _lies_in(script, folder))
        return list(dict.fromkeys(found))


def _lies_in(script: str, folder: Path) -> bool:
    return script.startswith(f"{folder}{os.sep}")


def origins() -> Origins | None:
    """Where all jobs in the queue come from; None if squeue does not answer.

    This tells of a job that was accepted even where its submission was interrupted before the id came back.
    """
    said = _ask("squeue", "-r", "-h", "-a", "-o", "%F|%k|%o")
    if said is None:
        return None
    lines = (line.split("|", 2) for line in said.splitlines())
    return Origins(tuple((line[0].strip(), line[1], line[2]) for line in lines if len(line) == 3))


def seconds_left() -> float | None:
    """Seconds until the time limit of the job that this process is in; None outside of a job, or if nobody tells.

    What the job has is asked, not what a profile says: a site, or whoever submitted it, may have changed that.
    """
    end, (job, _) = os.environ.get("SLURM_JOB_END_TIME", ""), slurm_job()  # the former since Slurm 23.02
    if end.isdecimal():
        return max(float(end) - time.time(), 0.0)
    said = _ask("squeue", "-h", "-j", job, "-o", "%L") if job else None
    return seconds_of(said) if said else None


def cluster() -> str | None:
    """The name of the cluster that Slurm's commands speak of here; None if it does not answer."""
    if named := os.environ.get("SLURM_CLUSTER_NAME"):
        return named
    found = re.search(r"^ClusterName\s*=\s*(\S+)", _ask("scontrol", "show", "config") or "", re.MULTILINE)
    return found.group(1) if found else None


def ended(job_ids: Iterable[str]) -> dict[str, Job] | None:
    """What sacct recorded of jobs, one record a job or element (its last); None if it does not answer."""
    ids = sorted({base_id(key) for key in job_ids})
    found: dict[str, Job] = {}
    for begin in range(0, len(ids), _MOST_JOBS):
        fields = "JobID,State,ExitCode"
        said = _ask("sacct", "-n", "-P", "-X", "-j", ",".join(ids[begin : begin + _MOST_JOBS]), "-o", fields)
        if said is None:
            return None
        for line in said.splitlines():
            key, state, *code = line.split("|")
            found[key] = Job(key, state.split()[0], code=code[0] if code and code[0] else None)
    return found


@dataclass(frozen=True)
class Ended:
    """Slurm's word on one restart of a job: its state, and whether its memory was what ended it."""

    state: str
    over_memory: bool


def end_of(key: str, restart: int) -> Ended | None:
    """Slurm's word on how a job or array element ended at a restart count; None: no record, or no answer.

    Where memory is enforced by polling, the state is FAILED: what the steps used, against what was asked, tells.
    """
    said = _ask("sacct", "-n", "-P", "-D", "-j", key, "-o", "JobID,State,AllocTRES,MaxRSS")
    restarts: list[Ended] = []
    memory = 0.0
    for name, state, tres, peak in (line.split("|") for line in (said or "").splitlines()):
        if "." not in name:
            given = re.search(r"mem=([\d.]+[KMGT]?)", tres)
            memory = _bytes(given.group(1)) if given else 0.0
            restarts.append(Ended(state.split()[0], False))
        elif restarts and memory and peak and _bytes(peak) > memory:
            restarts[-1] = replace(restarts[-1], over_memory=True)
    return restarts[restart] if restart < len(restarts) else None


def cancel(keys: Iterable[str]) -> str | None:
    """Cancel jobs or array elements; None if Slurm accepted, else what it said."""
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
    told = re.search(r"AccountingStorageEnforce\s*=\s*(\S+)", config)
    enforced = set(told.group(1).lower().split(",")) if told else {"all"}
    return SiteLimits(
        int(size.group(1)) if size else None,
        partitions,
        bool(enforced - {"none", "nojobs", "nosteps"}),
        bool(enforced & {"all", "qos"}),
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
    """The site's QOS, and whether each lifts its partitions' time limits; None where accounting does not tell."""
    lines = (_ask("sacctmgr", "-n", "-P", "show", "qos", "format=name,flags") or "").splitlines()
    parts = (line.strip().partition("|") for line in lines)
    return {name: "PartitionTimeLimit" in flags.split(",") for name, _, flags in parts if name} or None


def accounts() -> set[str] | None:
    """The accounts that this user may charge; None where accounting does not tell."""
    said = _ask("sacctmgr", "-n", "-P", "show", "assoc", "where", f"user={username()}", "format=account")
    found = {line.strip() for line in (said or "").splitlines()} - {""}
    return found or None


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


@dataclass(frozen=True)
class Usage:
    """What one job or array element used, by sacct; None: not recorded."""

    key: str
    state: str
    elapsed_seconds: float
    cpu_seconds: float | None
    allocated_cpus: int | None
    peak_memory_bytes: float | None


def usage(job_ids: Iterable[str]) -> list[Usage] | None:
    """What jobs that have begun used, their restarts apart; None if sacct does not answer."""
    ids = sorted({base_id(key) for key in job_ids})
    found = []
    for begin in range(0, len(ids), _MOST_JOBS):
        fields = "JobID,State,ElapsedRaw,TotalCPU,AllocCPUS,MaxRSS"
        said = _ask("sacct", "-n", "-P", "-D", "-j", ",".join(ids[begin : begin + _MOST_JOBS]), "-o", fields)
        if said is None:
            return None
        peaks: list[float] = []
        lines = [line.split("|") for line in said.splitlines()]
        for key, state, elapsed, cpu, cpus, peak in reversed(lines):  # a job's steps follow it
            if "." in key:
                peaks += [_bytes(peak)] if peak else []
            else:
                if float(elapsed or 0) > 0:
                    found.append(
                        Usage(
                            key,
                            state.split()[0],
                            float(elapsed),
                            _cpu_seconds(cpu),
                            _integer(cpus),
                            max(peaks, default=None),
                        )
                    )
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
