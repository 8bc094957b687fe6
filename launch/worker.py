"""A worker: a supervisor without torch that hands runs of a manifest to a warm child, one after another.

The child is replaced after any crash or unexpected failure, and the siblings go on. Several workers share a queue
through claims alone. A run of several processes gets a fresh group of them.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from launch import STOP_SECONDS
from launch.memory import memory_kills
from tensloradist.results.claims import STILL_SECONDS, Watch, highest_claim, owner_of, ownership
from tensloradist.results.layout import RunFolder, write_replacing
from tensloradist.results.publish import read_failure, write_failure
from tensloradist.results.schema import Cause, Failure, Manifest, ManifestRun

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # between looks at the heartbeats of owners on other machines
MOST_INTERRUPTIONS = 3  # of one run in one launch, after which it is left to the next
MOST_EARLY_ENDS = 3  # of children in a row that could not even claim a run
EXPECTED_CAUSES = ("configuration", "data_missing")  # after these a child is as good as before


@dataclass(frozen=True)
class Submission:
    """What a worker needs to know, as an immutable file: submitted functions get its path, never objects."""

    manifest: str
    root: str
    threads: int
    devices: tuple[str, ...]
    baseline: dict[str, int] = field(default_factory=dict)
    """run_id -> its highest claim when the launch began, for the runs to be trained."""
    still_seconds: float = STILL_SECONDS
    """How long the heartbeat of an owner on another machine must stand still before its run is taken over."""

    @classmethod
    def read(cls, path: Path) -> Submission:
        data = json.loads(path.read_text())
        return cls(**{**data, "devices": tuple(data["devices"])})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


class Child:
    """One child process and its events."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "launch.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**os.environ, **environment},
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        self.events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def request(self, **fields: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the child has ended: the end of its events tells
            self._process.stdin.write(json.dumps(fields) + "\n")

    def next_event(self, seconds: float) -> dict[str, Any] | None:
        """The next event; {'event': 'waiting'} after `seconds` without one; None once the child has ended."""
        try:
            return self.events.get(timeout=seconds)
        except queue.Empty:
            return {"event": "waiting"}

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        """The exit code of a child whose events have ended."""
        return self._process.wait()

    def stop(self) -> None:
        """End the child in an orderly way, or by force after `STOP_SECONDS`."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Worker:
    """Drains a manifest's runs until none is left that it could train."""

    def __init__(self, submission_path: Path, index: int) -> None:
        self.folder, self.index = submission_path.parent, index
        self.submission = Submission.read(submission_path)
        self.root = Path(self.submission.root)
        manifest = Manifest.model_validate_json(Path(self.submission.manifest).read_text())
        wanted = self.submission.baseline
        self.runs = [run for run in manifest.runs if run.run_id in wanted]
        self.child: Child | None = None
        self._watch = Watch(self.submission.still_seconds)
        self._early_ends = 0

    def drain(self) -> None:
        """Passes over the queue, in launch order, until a pass finds nothing to train (or the launch was stopped).

        Runs with owners on other machines are watched meanwhile, and left alone as soon as a heartbeat moves.
        """
        try:
            while True:
                passed = [self._try(run) for run in self.runs]
                if "trained" not in passed:
                    if "undecided" not in passed or self._stopped:
                        return
                    self._say("watching")
                    time.sleep(min(LOOK_SECONDS, self.submission.still_seconds / 4))
        finally:
            if self.child is not None:
                self.child.stop()
            self._say("ended")

    @property
    def _stopped(self) -> bool:
        return (self.folder / "stop").exists()

    def _try(self, run: ManifestRun) -> Literal["trained", "undecided", "passed"]:
        """Train the run if it is free; undecided where only time can tell whether its owner lives."""
        folder = RunFolder(self.root, run.run_id)
        known = highest_claim(folder)  # read first: whoever claims while this worker judges makes the run busy
        if self._stopped or folder.result.exists() or self._has_failed(folder):
            return "passed"
        owner = ownership(folder)
        seen = self._watch.look(folder) if owner == "unknown" else None
        if seen == "undecided":
            return "undecided"
        if owner == "alive" or seen == "moved":
            return "passed"
        processes = int(run.spec["compute"]["processes"])
        if processes > 1:
            self._replace_child()
            group = [self._start_child(rank, processes) for rank in range(processes)]
            try:
                status = self._train(run, folder, group, known, seen == "still")
            finally:
                for child in group:
                    child.stop()
        else:
            if self.child is None or self.child.has_ended:
                self.child = self._start_child()
            status = self._train(run, folder, [self.child], known, seen == "still")
        return "passed" if status == "busy" else "trained"

    def _has_failed(self, folder: RunFolder) -> bool:
        """Whether the run has failed in this launch. One that was interrupted is tried again, a few times."""
        failure, baseline = read_failure(folder), self.submission.baseline[folder.run_id]
        if failure is None or failure.attempt <= baseline:
            return False
        return failure.cause != "interrupted" or failure.attempt - baseline >= MOST_INTERRUPTIONS

    def _replace_child(self) -> None:
        if self.child is not None:
            self.child.stop()
        self.child = None

    def _start_child(self, rank: int = 0, processes: int = 1) -> Child:
        environment = {
            "OMP_NUM_THREADS": str(max(1, self.submission.threads // processes)),
            "MKL_NUM_THREADS": str(max(1, self.submission.threads // processes)),
        }
        if self.submission.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.submission.devices[self.index % len(self.submission.devices)]
        if processes > 1:
            if rank == 0:
                self._port = _free_port()
            if self.submission.devices:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.submission.devices)
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._port),
            }
        return Child(self.folder / f"worker-{self.index}.err", environment)

    def _train(self, run: ManifestRun, folder: RunFolder, group: list[Child], before: int, stood_still: bool) -> str:
        """Train on the first child, the others following; returns the outcome's status, 'failed' for a crash."""
        first, attempt, kills = group[0], None, memory_kills()
        shown: dict[str, Any] = {}
        first.request(spec=run.spec, root=str(self.root), expected=before, stood_still=stood_still)
        self._say("starting", run)
        while True:
            event = first.next_event(POLL_SECONDS)
            crashed = next((c for c in group[1:] if self._has_ended(c)), None) if attempt else None
            if event is None or crashed is not None:
                return self._crashed(folder, before, crashed or first, group, kills)
            if self._stopped and event["event"] in ("waiting", "progress"):
                for child in group:
                    child.stop()
                self.child = None
                return "stopped"
            if event["event"] == "started":
                attempt, self._early_ends = event["attempt"], 0
                for child in group[1:]:
                    child.request(spec=run.spec, follow=attempt)
            if event["event"] == "progress":
                shown |= {key: value for key, value in event.items() if key != "event"}  # an epoch's has no loss
                self._say("training", run, **shown)
            if event["event"] == "outcome":
                self._say("done", run, status=event["status"])
                if event["status"] == "failed" and event["cause"] not in EXPECTED_CAUSES:
                    self._replace_child()
                return str(event["status"])

    def _has_ended(self, child: Child) -> bool:
        """Whether a following child has died; its ordinary events are taken off its queue."""
        while not child.events.empty():
            if child.events.get() is None:
                return True
        return False

    def _crashed(self, folder: RunFolder, before: int, child: Child, group: list[Child], kills: int) -> str:
        """Record the end of a child that did not say why, if its attempt has no record yet."""
        code, number, log = child.wait(), highest_claim(folder), self.folder / f"worker-{self.index}.err"
        attempt = folder.attempt(number)
        claimed = number > before and owner_of(folder, number).pid == group[0].pid
        if claimed and attempt.is_dir() and not folder.result.exists():
            how = f"the process ended by signal {-code}" if code < 0 else f"the process exited with {code}"
            cause = _cause_of_end(code, memory_kills() > kills)
            write_failure(
                attempt, Failure(run_id=folder.run_id, attempt=number, cause=cause, message=f"{how}; see {log}")
            )
        for other in group:  # only now: being stopped, the others may record an interruption, and the first word stays
            other.stop()
        self.child = None
        if number == before:
            self._early_ends += 1
            if self._early_ends >= MOST_EARLY_ENDS:
                raise RuntimeError(f"the child ended with {code} before it could claim a run; see {log}")
        return "failed"

    def _say(self, state: str, run: ManifestRun | None = None, **more: Any) -> None:
        about = (
            {} if run is None else {"run_id": run.run_id, "row": run.row, "task": run.task, "seed": run.spec["seed"]}
        )
        status = {"state": state, "pid": os.getpid(), "time": time.time(), **about, **more}
        write_replacing(self.folder / f"worker-{self.index}.json", json.dumps(status))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cause_of_end(code: int, for_memory: bool) -> Cause:
    """The class of a failure that only the exit code tells of: negative for a signal."""
    if -code == signal.SIGKILL and for_memory:
        return "out_of_host_memory"
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return "killed"
    return "interrupted" if code == 130 else "bug"


def run_worker(submission: str, index: int) -> None:
    """What submitit runs: tiny, importable, its arguments just a path and a number."""
    Worker(Path(submission), index).drain()
