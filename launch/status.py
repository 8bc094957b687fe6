"""What a sweep's files say of its runs and jobs: truth in the order result, claim, one squeue, then sacct.

Results alone make a run done; Slurm's word is only about jobs, and its silence changes nothing. No torch here.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch import scheduler
from launch.accepted import launches
from launch.failures import TRIED_AGAIN, decision_of
from launch.jobs import Jobs, JobsStatus
from launch.liveness import at_work
from launch.policy import RULES
from launch.run_labels import RunLabels
from tensloradist.results.attempts import read_attempt, read_end
from tensloradist.results.claims import JobAlive, highest_claim, owner_of, ownership
from tensloradist.results.holds import held
from tensloradist.results.layout import RunFolder, sweep_folder
from tensloradist.results.manifests import latest_manifest
from tensloradist.results.publish import read_failure_of
from tensloradist.results.schema import ManifestRun
from tensloradist.results.sweeps import FoundSweep

OVER = ("finished", "diverged")


@dataclass
class RunStatus:
    """One run: `state` is finished, diverged, running, claimed, failed, held, broken or planned.

    `label` sets it apart from all runs of the sweep, `setting` from those of its cell and seed.
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


@dataclass
class SweepStatus:
    """A sweep's state, as `status --json` prints it."""

    name: str
    runs: list[RunStatus]
    jobs: JobsStatus | None
    gpus: bool = False
    warnings: list[str] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter(run.state for run in self.runs)

    @property
    def is_open(self) -> bool:
        """Whether something is at work or waits for a job."""
        working = any(run.state in ("running", "claimed") for run in self.runs)
        waiting = any(run.state == "planned" for run in self.runs)
        jobs = self.jobs is not None and any(self.jobs.counts.get(state) for state in ("pending", "running"))
        return working or (waiting and jobs)

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
        jobs: what earlier looks have learned of them.
        edited: the sweep of a file that was edited since, in place of the newest manifest.

    Raises:
        UserError: a manifest, claim or record that cannot be read.
    """
    manifest = edited.manifest if edited else latest_manifest(name, root)
    jobs = jobs or Jobs(name, root)
    said = jobs.look()
    alive = _alive_by(jobs.living, jobs.cluster)
    runs, labels = (
        [_run_status(RunFolder(root, run.run_id), run, alive) for run in manifest.runs],
        RunLabels(manifest.runs),
    )
    for run in runs:
        run.label, run.setting = labels.label(run.run_id), labels.setting(run.run_id)
    warnings = [edited.note] if edited and edited.note else []
    if said is not None and not said.answers:
        warnings.append("Slurm does not answer: what follows is what the files say")
    warnings += [
        f"{len(ids)} jobs are of the cluster {cluster}, which cannot be asked from here"
        for cluster, ids in (jobs.elsewhere() if said else {}).items()
    ]
    broken = [run.run_id for run in runs if run.state == "broken"]
    if broken:
        warnings.append(f"{len(broken)} results are broken ({', '.join(broken[:3])}); launch again to train them anew")
    differ = sum(run.duplicates_differ for run in runs)
    listed = [run.run_id for run in runs if run.duplicates]
    if listed:
        number = sum(run.duplicates for run in runs)
        warnings.append(f"{number} duplicate results (the first published counts): {', '.join(listed[:3])}")
    if differ:
        warnings.append(f"{differ} duplicate results differ from the published ones")
    warnings += _said_by_workers(name, root)
    gpus = any(array["asked"]["gpus_per_node"] for _, launch in launches(name, root) for array in launch["arrays"])
    return SweepStatus(name, runs, said, gpus, warnings)


def _alive_by(living: dict[str, scheduler.Job] | None, cluster: str | None) -> JobAlive:
    """Whether an owner's Slurm job may still run, for `ownership`."""
    return lambda owner: None if living is None else at_work(owner, living, cluster)


def _run_status(folder: RunFolder, run: ManifestRun, alive: JobAlive) -> RunStatus:
    conditions = ", ".join(member.condition for member in run.conditions)
    status = RunStatus(run.run_id, run.row, run.backbone, run.task, conditions, int(run.spec["seed"]), "planned")
    status.processes = int(run.spec["compute"]["processes"])
    if not folder.path.is_dir():
        return status
    numbers = folder.attempt_numbers()
    status.attempts = len(numbers)
    _account(folder, numbers, status)
    result = _quick_result(folder)
    if result is not None:
        status.state = str(result["state"])
        status.score = result["metrics"]["score"]
        status.step = status.steps = result["times"]["steps"]
        return status
    if folder.result.exists():
        status.state = "broken"
    elif held(folder) is not None:
        status.state, status.message = "held", str((held(folder) or {}).get("reason"))
    elif (owner := ownership(folder, alive)) != "free":
        number = highest_claim(folder)
        status.state = "running" if owner == "alive" or _job_runs(folder, number, alive) else "claimed"
        status.host = owner_of(folder, number).host
        status.step, status.steps = _progress(folder.attempt(number))
    elif numbers and (failure := read_failure_of(folder, numbers[-1])) is not None:
        status.cause, status.message = failure.cause, failure.message
        decision = decision_of(folder, numbers[-1])
        goes_on = decision["action"] in TRIED_AGAIN if decision else RULES[failure.cause].goes_on
        status.state = "planned" if goes_on or RULES[failure.cause].goes_on else "failed"
        status.decision = decision["reason"] if decision else None
        record = read_attempt(folder.attempt(numbers[-1]))
        status.host = record.host if record else None
        status.log = str(folder.attempt(numbers[-1]) / "log.txt")
    return status


def _job_runs(folder: RunFolder, number: int, alive: JobAlive) -> bool:
    return alive(owner_of(folder, number)) is True


def _quick_result(folder: RunFolder) -> dict[str, Any] | None:
    """A result that is whole and this run's; the schema was checked when it was written."""
    try:
        data = json.loads(folder.result.read_bytes())
        sound = data["run_id"] == folder.run_id and data["state"] in OVER and "score" in data["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return data if sound else None


def _progress(attempt: Path) -> tuple[int | None, int | None]:
    """(updates done, of how many) by the last whole line of metrics.jsonl that says it."""
    path = attempt / "metrics.jsonl"
    if not path.exists():
        return None, None
    for line in reversed(path.read_bytes().splitlines()[-50:]):
        try:
            record = json.loads(line)
        except ValueError:  # torn, or being written
            continue
        if "steps" in record:
            return record["step"], record["steps"]
    return None, None


def _account(folder: RunFolder, numbers: list[int], status: RunStatus) -> None:
    """Seconds that the run's attempts took, and what of it was lost: work that no later attempt went on from."""
    for place, number in enumerate(numbers):
        attempt = folder.attempt(number)
        record, end = read_attempt(attempt), read_end(attempt)
        if record is None:
            continue
        # One host's clock for both times; of a killed attempt the number of heartbeats is what is known.
        seconds = end.ended - record.started if end else _seconds_beaten(folder, number)
        status.seconds += seconds
        if end is not None and end.state == "duplicate":
            status.duplicates += 1
            status.duplicates_differ += not _same_metrics(attempt / "result.json", folder.result)
        if end is None or end.state == "failed":
            following = read_attempt(folder.attempt(numbers[place + 1])) if place + 1 < len(numbers) else None
            went_on = following is not None and following.resumed_from is not None
            begun = record.resumed_from.step if record.resumed_from else 0
            kept = following.resumed_from.step - begun if went_on and following and following.resumed_from else 0
            done = end.steps - begun if end and end.steps else kept
            lost = seconds * (1 - min(1.0, max(0, kept) / done) if done > 0 else 1.0)
            failure = read_failure_of(folder, number)
            if following is not None or failure is not None:
                cause = failure.cause if failure else "killed"
                status.wasted_seconds += lost
                status.wasted_by_cause[cause] = status.wasted_by_cause.get(cause, 0.0) + lost


def _seconds_beaten(folder: RunFolder, number: int) -> float:
    path = folder.path / f"heartbeat.{number:04d}"
    text = path.read_text() if path.exists() else ""
    return max(0, int(text) - 1) * owner_of(folder, number).heartbeat_seconds if text.isdigit() else 0.0


def _same_metrics(first: Path, second: Path) -> bool:
    try:
        return bool(json.loads(first.read_bytes())["metrics"] == json.loads(second.read_bytes())["metrics"])
    except (OSError, ValueError, KeyError):
        return False


def _said_by_workers(name: str, root: Path) -> list[str]:
    """What went wrong with the workers themselves of the newest launch, and of others that are still at work."""
    folders = sorted((sweep_folder(root, name) / "launches").glob("*"))
    errors: dict[str, list[str]] = defaultdict(list)
    changed = 0
    for folder in folders:
        said = [json.loads(path.read_bytes()) for path in folder.glob("worker-*.json")]
        if folder != folders[-1] and all(word["state"] in ("ended", "crashed") for word in said):
            continue
        for word in said:
            changed += bool(word.get("code_changed"))
            if word["state"] == "crashed":
                errors[word["error"]].append(word["host"])
    lines = [
        f"{len(hosts)} workers ended by an error of their own ({', '.join(sorted(set(hosts))[:4])}): {error}"
        for error, hosts in errors.items()
    ]
    if changed:
        lines.append(f"{changed} workers run other code than was submitted: it was edited since (launch --snapshot)")
    return lines
