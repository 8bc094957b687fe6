"""The state of a sweep's runs and jobs: from results first, then from claims, the scheduler's queue and its records.

Only a result makes a run done. The scheduler is asked only about jobs, and nothing changes if it does not answer.
Imports no torch.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launch.monitor.jobs import Jobs, JobsStatus
from launch.monitor.spending import spending
from launch.planning.labels import RunLabels
from launch.records.job_arrays import read_launches
from launch.records.worker_status import WorkerStatus, is_at_work, read_words
from launch.scheduler import at_work
from tensloradist.results.attempts import attempt_files
from tensloradist.results.claims import JobAlive, highest_claim, owner_of, ownership
from tensloradist.results.holds import held
from tensloradist.results.layout import RunFolder, sweep_folder
from tensloradist.results.manifests import latest_manifest
from tensloradist.results.metrics import last_progress
from tensloradist.results.schema import ManifestRun
from tensloradist.results.standing import standing
from tensloradist.results.sweeps import FoundSweep
from tensloradist.wording import counted

STARTING_SECONDS = 60.0  # until a launch's workers have written their first state
MOST_PROBLEMS = 8  # files that are named
OVER = ("finished", "diverged")


@dataclass
class RunStatus:
    """One run: `state` is finished, diverged, running, claimed, failed, held, broken, newer, unreadable or
    planned.

    `label` sets it apart from all runs of the sweep, `setting` from those of its cell and seed.
    `problems`: what is wrong with its files; a run is broken by them where they are all that is known of its end.
    """

    run_id: str
    row: str
    backbone: str
    task: str
    condition: str
    seed: int
    state: str
    label: str = ""
    setting: str = ""
    processes: int = 1
    attempts: int = 0
    score: float | None = None
    step: int | None = None
    steps: int | None = None
    seconds: float = 0.0
    wasted_seconds: float = 0.0
    cause: str | None = None
    message: str | None = None
    decision: str | None = None
    host: str | None = None
    log: str | None = None
    duplicates: int = 0
    duplicates_differ: int = 0
    wasted_by_cause: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class SweepStatus:
    """A sweep's state, as `status --json` prints it.

    `waiting`: whether a job or a worker is left that could take a planned run; None: not known.
    """

    name: str
    runs: list[RunStatus]
    jobs: JobsStatus | None
    gpus: bool = False
    warnings: list[str] = field(default_factory=list)
    waiting: bool | None = None

    def counts(self) -> Counter[str]:
        return Counter(run.state for run in self.runs)

    @property
    def is_open(self) -> bool:
        """Whether something is at work or waits for a job."""
        working = any(run.state in ("running", "claimed") for run in self.runs)
        waiting = any(run.state == "planned" for run in self.runs)
        return working or (waiting and self.jobs is not None and self.jobs.are_left)

    def remaining_seconds(self) -> float | None:
        """At the durations recorded, with as many workers as are at work now; None where either is unknown."""
        durations = [run.seconds for run in self.runs if run.state in OVER and run.seconds]
        working = sum(run.state == "running" for run in self.runs)
        if not durations or not working:
            return None
        left = sum(
            1 - (run.step or 0) / run.steps if run.steps else 1.0
            for run in self.runs
            if run.state in ("running", "planned", "claimed")
        )
        return statistics.median(durations) * left / working

    def to_json(self) -> str:
        data = asdict(self)
        data["counts"], data["remaining_seconds"] = dict(self.counts()), self.remaining_seconds()
        return json.dumps(data, indent=1)


def collect(name: str, root: Path, jobs: Jobs | None = None, edited: FoundSweep | None = None) -> SweepStatus:
    """The state of every run of a sweep's newest manifest, and of its jobs.

    Args:
        jobs: the sweep's jobs, which remember what earlier looks have found; None: no scheduler is asked.
        edited: the sweep of a file that was edited since, in place of the newest manifest.

    A run whose files cannot be read is marked, and does not hide the others.

    Raises:
        UserError: the manifest cannot be read.
    """
    manifest = edited.manifest if edited else latest_manifest(name, root)
    found = jobs.look() if jobs else None
    alive = _alive_by(jobs)
    runs = [_run_status(RunFolder(root, run.run_id), run, alive) for run in manifest.runs]
    labels = RunLabels(manifest.runs)
    for run in runs:
        run.label, run.setting = labels.label(run.run_id), labels.setting(run.run_id)
    submitted, unreadable = read_launches(name, root)
    warnings = [edited.note] if edited and edited.note else []
    if jobs is not None and found is not None and not found.answers:
        warnings.append(f"{jobs.scheduler.name} does not answer: what follows is what the files say")
    elsewhere = jobs.elsewhere() if jobs and found else {}
    warnings += [
        f"{counted(len(ids), 'job is', 'jobs are')} of the cluster {cluster}, which cannot be asked from here"
        for cluster, ids in elsewhere.items()
    ]
    warnings += _of_files(runs)
    warnings += found.early_ends if found is not None else []
    problems, local_work = _worker_problems(name, root)
    warnings += [*problems, *map(str, unreadable)]
    gpus = any(array.asked.gpus_per_node for _, launch in submitted for array in launch.arrays)
    unknown_jobs = bool(elsewhere or unreadable or (found is not None and not found.answers))
    waiting = None if unknown_jobs else local_work or (found is not None and found.are_left)
    return SweepStatus(name, runs, found, gpus, warnings, waiting)


def _of_files(runs: list[RunStatus]) -> list[str]:
    """What is wrong with the files of runs, with one example of each kind."""
    lines = []
    remedies = {
        "broken": "launch again: these runs go on, or are trained anew",
        "newer": "update tensloradist",
        "unreadable": "no launch trains these runs; ask the owner of the files for the right to read them",
    }
    for state, remedy in remedies.items():
        marked = [run for run in runs if run.state == state]
        if marked:
            ids = ", ".join(run.run_id for run in marked[:3])
            lines.append(f"{counted(len(marked), 'run')} {state} ({ids}); {remedy}")
    problems = list(dict.fromkeys(problem for run in runs for problem in run.problems))
    lines += problems[:MOST_PROBLEMS]
    if len(problems) > MOST_PROBLEMS:
        lines.append(
            f"{counted(len(problems) - MOST_PROBLEMS, 'more file')} that cannot be read (status --json lists all)"
        )
    listed = [run.run_id for run in runs if run.duplicates]
    if listed:
        number = sum(run.duplicates for run in runs)
        lines.append(f"{counted(number, 'duplicate result')} (the first published counts): {', '.join(listed[:3])}")
    if differ := sum(run.duplicates_differ for run in runs):
        lines.append(
            f"{counted(differ, 'duplicate result differs', 'duplicate results differ')} from the published ones"
        )
    return lines


def _alive_by(jobs: Jobs | None) -> JobAlive:
    """Whether an owner's job may still run, for `ownership`."""
    queue, cluster = (jobs.living, jobs.cluster) if jobs else (None, None)
    return lambda owner: None if queue is None else at_work(owner, queue, cluster)


def _run_status(folder: RunFolder, run: ManifestRun, alive: JobAlive) -> RunStatus:
    conditions = ", ".join(member.condition for member in run.conditions)
    status = RunStatus(run.run_id, run.row, run.backbone, run.task, conditions, run.spec.seed, "planned")
    status.processes = run.spec.compute.processes
    try:
        if folder.path.is_dir():
            _look(folder, status, alive)
    except OSError as error:  # a folder that may not be entered, for one
        status.state = "unreadable"
        status.problems.append(f"{error.filename or folder.path}: cannot be read ({error.strerror or error})")
    return status


def _look(folder: RunFolder, status: RunStatus, alive: JobAlive) -> None:
    """What the files of a run that has some say of it."""
    numbers = folder.attempt_numbers()
    status.attempts = len(numbers)
    spent = spending(folder)
    status.seconds, status.wasted_seconds = spent.seconds, spent.wasted_seconds
    status.wasted_by_cause = spent.wasted_by_cause
    status.duplicates, status.duplicates_differ = spent.duplicates, spent.duplicates_differ
    found = standing(folder)
    status.problems = list(found.problems)
    if found.result is not None:
        status.state, status.score = found.state, found.result.metrics.score
        status.step = status.steps = found.result.times.steps
        status.problems += spent.unreadable
    elif found.state != "open":
        status.state = found.state
    elif (hold := held(folder)) is not None:
        status.state, status.message = "held", str(hold["reason"])
    elif (owner := ownership(folder, alive)) != "free":
        number = highest_claim(folder)
        status.state = "running" if owner == "alive" or _job_runs(folder, number, alive) else "claimed"
        status.host = owner_of(folder, number).host
        status.step, status.steps = last_progress(folder.attempt(number))
    elif found.problems:
        status.state = "broken"
    elif numbers:
        _look_at_failure(folder, numbers[-1], status)


def _look_at_failure(folder: RunFolder, number: int, status: RunStatus) -> None:
    """How the newest attempt failed, and the decision on it."""
    files = attempt_files(folder, number)
    if files.failure is None:
        return
    status.cause, status.message = files.failure.cause, files.failure.message
    status.state = "failed" if files.has_failed else "planned"
    status.decision = files.decision.reason if files.decision else None
    status.host = files.record.host if files.record else None
    status.log = str(folder.attempt(number) / "log.txt")


def _job_runs(folder: RunFolder, number: int, alive: JobAlive) -> bool:
    return alive(owner_of(folder, number)) is True


def _works_here(folder: Path, words: list[WorkerStatus]) -> bool:
    """Whether a launch on this machine has a worker at work, or has only just begun."""
    try:
        begun = (folder / "submission.json").stat().st_mtime
    except OSError:  # none, or a folder that may not be entered, which reading the launches' records reports
        return False
    begins = not words and time.time() - begun < STARTING_SECONDS
    return begins or any(not word.has_ended for word in words)


def _worker_problems(name: str, root: Path) -> tuple[list[str], bool]:
    """What went wrong with workers of the newest launch and of those at work; whether one here is at work."""
    folders = sorted((sweep_folder(root, name) / "launches").glob("*"))
    errors: dict[str, list[WorkerStatus]] = defaultdict(list)
    lines: list[str] = []
    changed, working = 0, False
    for folder in folders:
        words, unreadable = read_words(folder)
        if not is_at_work(words, unreadable) and folder != folders[-1]:
            continue
        lines += map(str, unreadable)
        working = working or _works_here(folder, words)
        for word in words:
            changed += word.code_changed
            if word.state == "crashed":
                errors[str(word.error)].append(word)
    for error, words in errors.items():
        hosts = ", ".join(sorted({word.host for word in words})[:4])
        who = counted(len(words), "worker ended by its own error", "workers ended by an error of their own")
        log = next((f"; see {word.log}" for word in words if word.log), "")
        lines.append(f"{who} ({hosts}): {error}{log}")
    if changed:
        lines.append(
            f"{counted(changed, 'worker runs', 'workers run')} other code than was submitted: it was edited since "
            "(launch --snapshot)"
        )
    return lines, working
