"""A worker: a supervisor without torch that hands runs of a manifest to a warm child, one after another.

The child is replaced after a crash or an unexpected failure, and the other runs go on. Workers on any machines share a
queue through claims alone. The policy decides what follows from a failure, and each decision is recorded.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from launch.records.policy import Growth
from launch.records.submission import Submission
from launch.records.worker_status import WorkerStatus, last_line
from launch.scheduler import Scheduler
from launch.worker.children import Child, ChildFactory, ChildGroup, Crash
from launch.worker.diagnosis import Diagnosis, diagnose_crash, diagnose_lost_owner
from launch.worker.failures import FailureBook, demand_of
from launch.worker.oom import memory_kills
from launch.worker.run_order import rotated
from launch.worker.signals import STOP_SECONDS
from launch.worker.staging import staged_spec
from tensloradist.errors import UserError
from tensloradist.records import DamagedRecord, UnreadableRecord
from tensloradist.results.checkpoints import kept_step
from tensloradist.results.claims import (
    JobAlive,
    Owner,
    Watch,
    heartbeat_for,
    highest_claim,
    is_released,
    owner_or_damage,
    ownership,
)
from tensloradist.results.holds import held
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import read_manifest
from tensloradist.results.publish import recover_broken, write_failure
from tensloradist.results.schema import Cause, Failure, ManifestRun
from tensloradist.results.standing import standing
from tensloradist.sources import job_hash

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # between looks at the heartbeats of owners on other machines
ORDERLY_SECONDS = 12.0  # for a checkpoint at the next step boundary, where the profile does not give more
MOST_EARLY_ENDS = 3  # children in a row that ended before they claimed a run
LAST_CAUSES = ("disk_full", "device_failure")  # the worker ends: another one may have another disk or GPU
EXPECTED_CAUSES = ("configuration", "data_missing")  # the child is kept: nothing is wrong with it
Tried = Literal["trained", "undecided", "passed"]  # what became of a run in one pass
CODE_CHANGED = "this is not the code that was submitted: it was edited since (launch --snapshot runs a copy)"


class EarlyEnd(RuntimeError):
    """Training processes end repeatedly before they begin a run, so nothing is wrong with the runs."""


class Group(Protocol):
    """The processes of one run. Only the first, `lead`, is always on this machine."""

    lead: Child

    def follow(self, spec: dict[str, Any], attempt: str) -> None: ...
    def crash(self) -> Crash | None: ...
    def ask_to_stop(self, reason: str) -> None: ...
    def stop(self, seconds: float = STOP_SECONDS) -> None: ...


class Worker:
    """Trains a manifest's runs until none is left that it could train, or it is told to stop.

    Args:
        name: part of the names of this worker's files in the launch's folder.
        device: which of the submission's GPUs it uses.
        scheduler: knows this worker's job, and how the jobs of other owners ended.
        job_alive: whether the job of another owner may still run.
        make_group: starts the processes of a multi-process run, the first by the worker's factory; None: all on this
            machine.
    """

    def __init__(
        self,
        submission_path: Path,
        name: str,
        device: int = 0,
        scheduler: Scheduler | None = None,
        job_alive: JobAlive | None = None,
        make_group: Callable[[ChildFactory], Group] | None = None,
    ) -> None:
        self.folder, self.name = submission_path.parent, name
        self.submission = Submission.read(submission_path)
        self.root = Path(self.submission.root)
        manifest = read_manifest(Path(self.submission.manifest))
        wanted = [run for run in manifest.runs if self._is_for_me(run)]
        self._plugins = manifest.plugins
        self.runs = rotated(wanted, name) if self.submission.launch_workers > 1 else wanted
        self._over: set[str] = set()  # ids of runs that need nothing more from this worker
        self.children = ChildFactory(self.submission, device, self.log)
        self.child: Child | None = None
        self.stop_reason: Cause | None = None  # why to stop
        self._failures = FailureBook(
            self.root,
            self.runs,
            self.submission.baseline,
            self.submission.growth,
            lambda: read_manifest(Path(self.submission.manifest)).runs,
        )
        self._job_alive, self._make_group = job_alive, make_group
        self._watch = Watch(self.submission.still_seconds)
        self._scheduler, self._job = scheduler, scheduler.current_job() if scheduler else None
        self._job_end = self.submission.job_end(scheduler.seconds_left if scheduler else lambda: None)
        self._trained = self._early_ends = 0
        self._code_changed = False

    def _is_for_me(self, run: ManifestRun) -> bool:
        """Whether this launch wants the run trained by jobs of this submission."""
        asked, compute = self.submission, run.spec.compute
        fits = asked.processes is None or (asked.processes, asked.nodes) == (compute.processes, compute.nodes)
        return run.run_id in asked.baseline and fits

    @property
    def log(self) -> Path:
        """The file with the children's standard error."""
        return self.folder / f"worker-{self.name}.err"

    def drain(self) -> bool:
        """Go through the queue in launch order until nothing is left to train, or the worker is told to stop.

        Runs with owners elsewhere are watched meanwhile, and skipped once their heartbeat moves.

        Returns:
            Whether it was stopped while there was work.
        """
        self._look_at_code()
        try:
            while True:
                passed = [self._try(run) for run in self.runs if run.run_id not in self._over]
                if self._must_stop() or self._has_done_its_share():
                    break
                if "trained" not in passed:
                    if "undecided" not in passed:
                        break
                    self._say("watching")
                    time.sleep(min(LOOK_SECONDS, self.submission.still_seconds / 4))
        except BaseException as error:
            what = "" if isinstance(error, EarlyEnd | UserError) else f"{type(error).__name__}: "
            self._say("crashed", error=" ".join(f"{what}{error}".split()), log=str(self.log))
            raise
        finally:
            if self.child is not None:
                self.child.stop()
        self._say("ended")
        goes_on = self.stop_reason not in (None, "cancelled", *LAST_CAUSES)
        return goes_on and any(self._is_open(run) for run in self.runs)

    def ask_to_stop(self, reason: Cause) -> None:
        """Stop at the next step boundary; the first reason stays. A signal handler may call this."""
        self.stop_reason = self.stop_reason or reason

    def needing_more(self) -> dict[Growth, list[str]]:
        """The ids of open runs that need larger jobs than this launch's, by what they need."""
        found: dict[Growth, list[str]] = defaultdict(list)
        for run in self.runs:
            folder = RunFolder(self.root, run.run_id)
            if run.run_id in self._over or not self._failures.needs_more(folder):
                continue
            if not folder.result.exists() and held(folder) is None:
                found[demand_of(folder)].append(run.run_id)
        return found

    def _must_stop(self) -> bool:
        """Whether to stop: because of a signal, the launch was stopped, or the job's time is nearly up."""
        if self.stop_reason in (None, "preempted") and (self.folder / "stop").exists():
            # `cancel` writes the file before Slurm, ending the job, signals it.
            self.stop_reason = "interrupted" if self.submission.job_seconds is None else "cancelled"
        end = self._job_end
        if self.stop_reason is None and end is not None and time.monotonic() > end - 0.8 * self.submission.lead_seconds:
            self.stop_reason = "time_limit"  # the signal comes earlier, but did not reach this process
        return self.stop_reason is not None

    def _has_done_its_share(self) -> bool:
        share = self.submission.runs_per_worker
        return share is not None and self._trained >= share

    def _is_open(self, run: ManifestRun) -> bool:
        folder = RunFolder(self.root, run.run_id)
        done = run.run_id in self._over or folder.result.exists()
        return not done and held(folder) is None and not self._failures.is_settled(folder)

    def _try(self, run: ManifestRun) -> Tried:
        """Train the run if it is free; undecided while it is not known whether its owner lives."""
        folder = RunFolder(self.root, run.run_id)
        if self._must_stop() or self._has_done_its_share():
            return "passed"
        try:
            found = self._looked_at(run, folder)
            return found if isinstance(found, str) else self._train_free(run, folder, *found)
        except UnreadableRecord as error:  # for example made by a newer version
            return self._leave_alone(run, str(error))

    def _looked_at(self, run: ManifestRun, folder: RunFolder) -> Literal["undecided", "passed"] | tuple[int, bool]:
        """What `_judged` says of a run that has no result."""
        try:
            if folder.result.exists() and recover_broken(folder) is None and folder.result.exists():
                self._over.add(run.run_id)
                return "passed"
            if not folder.can_be_worked_in:
                raise UnreadableRecord(folder.path, "this user may not read and write there")
            return self._judged(run, folder)
        except PermissionError as error:
            raise UnreadableRecord(Path(error.filename or folder.path), f"cannot be used ({error.strerror})") from error

    def _leave_alone(self, run: ManifestRun, why: str) -> Literal["passed"]:
        self._over.add(run.run_id)
        self._complain(f"run {run.run_id} is left alone: {why}")
        return "passed"

    def _judged(self, run: ManifestRun, folder: RunFolder) -> Literal["undecided", "passed"] | tuple[int, bool]:
        """Whether a run without a result is free: then its highest claim, and whether its owner was found dead."""
        known = highest_claim(folder)  # read first: whoever claims while this worker judges makes the run busy
        if not self._is_open(run):
            return "passed"
        owner = ownership(folder, self._job_alive, self._watch)
        seen = self._watch.look(folder) if owner == "unknown" else None
        if seen == "undecided":
            return "undecided"
        if owner == "alive" or seen == "moved":
            return "passed"
        if known and not is_released(folder, known) and self._bury(run, folder, known):
            return "passed"
        if known and self._failures.is_undecided(folder):
            # Its worker ended before deciding. A run that no job has the time to start would be retried for ever.
            self._failures.decide(run, folder)
            if not self._is_open(run):
                return "passed"
        if (found := standing(folder)).is_left_alone:
            return self._leave_alone(run, found.problems[0])
        return known, seen == "still" or known > 0  # the owner has been judged, so its claim is no obstacle

    def _train_free(self, run: ManifestRun, folder: RunFolder, known: int, stood_still: bool) -> Tried:
        """Train a run that was judged free, on as many processes as it asks for."""
        compute = run.spec.compute
        if compute.processes > 1 or compute.zero_stage:  # DeepSpeed leaves nothing warm
            self._replace_child()
            self._look_at_code()
            group = self._make_group(self.children) if self._make_group else self.children.group(compute.processes)
            try:
                status = self._train(run, folder, group, known, stood_still)
            finally:
                group.stop()
        else:
            if self.child is None or self.child.has_ended:
                self._look_at_code()
                self.child = self.children.child()
            status = self._train(run, folder, ChildGroup([self.child], self.log), known, stood_still)
        if status in ("finished", "diverged", "present"):
            self._over.add(run.run_id)
        if status in ("busy", "present"):
            return "passed"
        self._trained += status not in ("failed", "stopped")
        return "trained"

    def _look_at_code(self) -> None:
        """See whether a process that starts now runs the code that was submitted."""
        if not self._code_changed and self.submission.sources not in (None, job_hash(self._plugins)):
            self._code_changed = True
            self._complain(CODE_CHANGED)

    def _bury(self, run: ManifestRun, folder: RunFolder, number: int) -> bool:
        """Record the end of an attempt whose owner vanished without a record; returns whether that settles the run."""
        attempt = folder.attempt(number)
        if attempt.is_dir() and not (attempt / "result.json").exists():
            owner = owner_or_damage(folder, number)
            diagnosis = (
                Diagnosis("killed", str(owner))
                if isinstance(owner, DamagedRecord)
                else diagnose_lost_owner(owner, self._scheduler)
            )
            if folder.result.exists() or is_released(folder, number):  # it ended while the scheduler was asked
                return not self._is_open(run)
            self._record(run, folder, number, diagnosis)
        return not self._is_open(run)

    def _record(self, run: ManifestRun, folder: RunFolder, number: int, diagnosis: Diagnosis) -> None:
        failure = Failure(run_id=folder.run_id, attempt=number, kept_step=kept_step(folder), **diagnosis._asdict())
        write_failure(folder.attempt(number), failure)
        self._failures.decide(run, folder)

    def _replace_child(self) -> None:
        if self.child is not None:
            self.child.stop()
        self.child = None

    def _train(self, run: ManifestRun, folder: RunFolder, group: Group, before: int, stood_still: bool) -> str:
        """Train on the group; returns the outcome's status, 'failed' for a crash, 'stopped' when told to."""
        lead, attempt, kills = group.lead, None, memory_kills()
        adjusted = self._failures.adjusted(run, folder)
        spec = staged_spec(adjusted, self.submission.stage).model_dump(mode="json")
        shown: dict[str, Any] = {}
        deadline: float | None = None
        beat = heartbeat_for(self.submission.still_seconds)
        lead.request(
            spec=spec,
            root=str(self.root),
            expected=before,
            stood_still=stood_still,
            heartbeat_seconds=beat,
            job=asdict(self._job) if self._job else None,
        )
        self._say("starting", run)
        while True:
            event = lead.next_event(POLL_SECONDS)
            crash = group.crash() if attempt else None
            if event is None or crash is not None:
                if deadline is None:
                    return self._crashed(run, folder, before, crash, group, kills)
                self.child = None
                return "stopped"
            if deadline is None and self._must_stop():
                deadline = time.monotonic() + self._orderly_seconds()
                group.ask_to_stop(str(self.stop_reason))
            if deadline is not None and time.monotonic() > deadline:
                group.stop(STOP_SECONDS - ORDERLY_SECONDS)
                self.child = None
                return "stopped"
            if event["event"] == "started":
                attempt, self._early_ends = event["attempt"], 0
                group.follow(spec, event["attempt"])
            if event["event"] == "progress":
                shown |= {key: value for key, value in event.items() if key != "event"}  # an epoch's has no loss
                self._say("training", run, **shown)
            if event["event"] == "outcome":
                self._say("done", run, status=event["status"])
                if event["status"] == "failed":
                    try:
                        self._failures.decide(run, folder)
                    except OSError as error:  # the disk is full: the run's failure is handled alike
                        self._complain(f"no decision could be recorded: {error}")
                    if event["cause"] in LAST_CAUSES:
                        self.stop_reason = event["cause"]  # the other runs would fail here, too
                    if event["cause"] not in EXPECTED_CAUSES:
                        self._replace_child()
                return str(event["status"])

    def _orderly_seconds(self) -> float:
        """Seconds that the processes of a run have to stop in order: those of the profile, less a reserve."""
        return max(ORDERLY_SECONDS, 0.8 * self.submission.lead_seconds - STOP_SECONDS)

    def _crashed(
        self, run: ManifestRun, folder: RunFolder, before: int, crash: Crash | None, group: Group, kills: int
    ) -> str:
        """Record the end of a process that did not say why, if its attempt has no record yet."""
        crash = crash or Crash(group.lead.wait(), str(self.log))
        number = highest_claim(folder)
        owner = owner_or_damage(folder, number) if number > before else None
        begun = isinstance(owner, Owner) and owner.pid == group.lead.pid and folder.attempt(number).is_dir()
        if begun and not folder.result.exists():
            self._record(run, folder, number, diagnose_crash(run, folder, number, crash, memory_kills() > kills))
        group.stop()  # only now: processes that are stopped may record an interruption, and the first record stays
        self.child = None
        if not begun:
            self._early_ends += 1
            if self._early_ends >= MOST_EARLY_ENDS:
                raise EarlyEnd(
                    f"the training process ended with {crash.code} before it could begin a run: "
                    f"{last_line(self.log) or 'without output'}"
                )
        return "failed"

    def _say(self, state: str, run: ManifestRun | None = None, **more: Any) -> None:
        if run is not None:
            more |= {"run_id": run.run_id, "row": run.row, "task": run.task, "seed": run.spec.seed}
        status = WorkerStatus(
            state=state,
            time=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            code_changed=self._code_changed,
            **more,
        )
        try:
            status.write(self.folder / f"worker-{self.name}.json")
        except OSError as error:  # a full disk: the runs' failures say what follows
            self._complain(f"its status could not be written: {error}")

    def _complain(self, text: str) -> None:
        print(f"worker {self.name}: {text}", file=sys.stderr, flush=True)
