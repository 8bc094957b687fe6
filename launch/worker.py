"""A worker: a supervisor without torch that hands runs of a manifest to a warm child, one after another.

The child is replaced after any crash or unexpected failure, and the siblings go on. Several workers share a queue
through claims alone. A run of several processes gets a fresh group of them.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tensloradist.results.claims import highest_claim, is_alive
from tensloradist.results.layout import RunFolder, write_replacing
from tensloradist.results.publish import read_failure, write_failure
from tensloradist.results.schema import Failure, Manifest, ManifestRun

STOP_SECONDS = 20.0  # a stopped child's time to record the interruption
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Submission:
    """What a worker needs to know, as an immutable file: submitted functions get its path, never objects."""

    manifest: str
    root: str
    threads: int
    devices: tuple[str, ...]
    baseline: dict[str, int] = field(default_factory=dict)
    """run_id -> its highest claim when the launch began, for the runs to be trained."""

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

    def drain(self) -> None:
        """Passes over the queue, in launch order, until a pass finds nothing to train (or the launch was stopped)."""
        try:
            trained = True
            while trained:
                trained = False
                for run in self.runs:
                    trained = self._try(run) or trained
        finally:
            if self.child is not None:
                self.child.stop()
            self._say("ended")

    @property
    def _stopped(self) -> bool:
        return (self.folder / "stop").exists()

    def _try(self, run: ManifestRun) -> bool:
        """Train the run if it is free; whether it was."""
        folder = RunFolder(self.root, run.run_id)
        known = highest_claim(folder)  # read first: whoever claims while this worker judges makes the run busy
        if self._stopped or folder.result.exists() or is_alive(folder) or self._failed_in_this_launch(folder):
            return False
        processes = int(run.spec["compute"]["processes"])
        if processes > 1:
            self._replace_child()
            group = [self._start_child(rank, processes) for rank in range(processes)]
            status = self._train(run, folder, group, known)
            for child in group:
                child.stop()
        else:
            if self.child is None or self.child.has_ended:
                self.child = self._start_child()
            status = self._train(run, folder, [self.child], known)
        return status != "busy"

    def _failed_in_this_launch(self, folder: RunFolder) -> bool:
        failure = read_failure(folder)
        return failure is not None and failure.attempt > self.submission.baseline[folder.run_id]

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

    def _train(self, run: ManifestRun, folder: RunFolder, group: list[Child], before: int) -> str:
        """Train on the first child, the others following; returns the outcome's status, 'failed' for a crash."""
        first, attempt = group[0], None
        first.request(spec=run.spec, root=str(self.root), expected=before)
        self._say("starting", run)
        while True:
            event = first.next_event(POLL_SECONDS)
            crashed = next((c for c in group[1:] if self._has_ended(c)), None) if attempt else None
            if event is None or crashed is not None:
                return self._crashed(folder, before, crashed or first, group)
            if event["event"] == "waiting" and self._stopped:
                for child in group:
                    child.stop()
                self.child = None
                return "stopped"
            if event["event"] == "started":
                attempt = event["attempt"]
                for child in group[1:]:
                    child.request(spec=run.spec, follow=attempt)
            if event["event"] == "progress":
                self._say("training", run, **{key: value for key, value in event.items() if key != "event"})
            if event["event"] == "outcome":
                self._say("done", run, status=event["status"])
                if event["status"] == "failed" and event["cause"] not in ("configuration", "data_missing"):
                    self._replace_child()
                return str(event["status"])

    def _has_ended(self, child: Child) -> bool:
        """Whether a following child has died; its ordinary events are taken off its queue."""
        while not child.events.empty():
            if child.events.get() is None:
                return True
        return False

    def _crashed(self, folder: RunFolder, before: int, child: Child, group: list[Child]) -> str:
        """Record the end of a child that did not say why, if its attempt has no record yet."""
        code = child.wait()
        for other in group:
            other.stop()
        self.child = None
        number = highest_claim(folder)
        attempt = folder.attempt(number)
        if number > before and attempt.is_dir() and not folder.result.exists():
            signal_number = -code if code < 0 else None
            message = (
                f"the process ended by signal {signal_number}" if signal_number else f"the process exited with {code}"
            )
            cause = (
                "out_of_host_memory"
                if signal_number == 9 and _memory_was_exhausted()
                else "killed"
                if signal_number in (9, 15)
                else "interrupted"
                if code == 130
                else "bug"
            )
            write_failure(
                attempt,
                Failure(
                    run_id=folder.run_id,
                    attempt=number,
                    cause=cause,  # type: ignore[arg-type]
                    message=f"{message}; see {self.folder / f'worker-{self.index}.err'}",
                ),
            )
        elif number == before:
            raise RuntimeError(
                f"the child ended with {code} before it could claim a run; see "
                f"{self.folder / f'worker-{self.index}.err'}"
            )
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


def _memory_was_exhausted() -> bool:
    """Whether the kernel has killed a process of this control group for memory (cgroup v2's own count)."""
    path = Path("/sys/fs/cgroup/memory.events")
    try:
        return any(line.split()[0] == "oom_kill" and int(line.split()[1]) > 0 for line in path.read_text().splitlines())
    except OSError:
        return False  # no such file: the cause stays 'killed', which is what is known


def run_worker(submission: str, index: int) -> None:
    """What submitit runs: tiny, importable, its arguments just a path and a number."""
    Worker(Path(submission), index).drain()
