"""A supervisor's child processes: one for runs of one process, a group of them for a run of several."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.records.submission import Submission
from launch.worker.signals import STOP_SECONDS, ignored
from tensloradist.environment import inherited
from tensloradist.gpus import only
from tensloradist.ports import free_port


class Child:
    """One child process and its events.

    Args:
        log: where its standard error goes.
        environment: variables on top of this process's.
        command: what to run; None: `launch.worker.child`.
    """

    def __init__(self, log: Path, environment: dict[str, str], command: Sequence[str] | None = None) -> None:
        # The scheduler's warning signal goes to every process of a job. It is meant for supervisors and would end a
        # child, which inherits that the signal is ignored.
        with log.open("ab") as stream, ignored(signal.SIGUSR2):
            self._process = subprocess.Popen(
                command or [sys.executable, "-m", "launch.worker.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**inherited(os.environ), **environment},
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
        with suppress(BrokenPipeError):  # the child has ended, as the end of its events shows
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

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask the child to end, and kill it after this many seconds."""
        stop_all([self], seconds)

    def terminate(self) -> None:
        """Ask the child to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill_at(self, deadline: float) -> None:
        """Wait for the child's end until `deadline` (time.monotonic), then kill it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def stop_all(children: Sequence[Child], seconds: float) -> None:
    """Ask all children to end at the same time, and kill those that are left after `seconds`."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        child.kill_at(deadline)


@dataclass(frozen=True)
class Crash:
    """A process of a run that ended by itself: its exit code (negative for a signal), its log, and its rank."""

    code: int
    log: str
    rank: int = 0


class ChildGroup:
    """The processes of one run on this machine; the first of them claims and reports."""

    def __init__(self, children: list[Child], log: Path) -> None:
        self.lead, self._others, self._log = children[0], children[1:], log

    def follow(self, spec: dict[str, Any], attempt: str) -> None:
        """Let the other processes join the attempt that the first has begun."""
        for child in self._others:
            child.request(spec=spec, follow=attempt)

    def crash(self) -> Crash | None:
        """The end of one of the other processes, if one has ended; their other events are dropped."""
        for rank, child in enumerate(self._others, 1):
            while not child.events.empty():
                if child.events.get() is None:
                    return Crash(child.wait(), str(self._log), rank)
        return None

    def ask_to_stop(self, reason: str) -> None:
        """Ask every process to stop at its next step boundary, with a checkpoint."""
        for child in (self.lead, *self._others):
            child.request(stop=reason)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        stop_all([self.lead, *self._others], seconds)


class ChildFactory:
    """Starts a worker's child processes, each with its share of the submission's threads and GPUs.

    Args:
        device: which of the submission's GPUs the worker's runs of one process use.
        log: where the children's standard error goes.
    """

    def __init__(self, submission: Submission, device: int, log: Path) -> None:
        self._submission, self._device, self.log = submission, device, log

    def child(self, processes: int = 1, place: Mapping[str, str] | None = None) -> Child:
        """A child that is one of `processes` processes, which share this worker's CPUs and GPUs.

        Args:
            place: the environment variables that say which of a run's processes it is.
        """
        threads, devices = str(max(1, self._submission.threads // processes)), self._submission.devices
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **(place or {})}
        environment["TENSLORADIST_WORKERS_PER_GPU"] = str(self._submission.workers_per_gpu)
        if devices:
            environment |= only((devices[self._device % len(devices)],) if processes == 1 else devices)
        return Child(self.log, environment)

    def group(self, processes: int) -> ChildGroup:
        """The processes of one run, all on this machine."""
        port = str(free_port())
        children = []
        for rank in range(processes):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            environment = {name: str(value) for name, value in names.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            children.append(self.child(processes, environment))
        return ChildGroup(children, self.log)
