"""The warm child of a worker: a process that trains one run after another.

It reads requests from standard input and writes events to standard output, as lines of JSON; the output of libraries
goes to standard error. It imports torch once and keeps the last backbone and data.

It stops at the next step boundary, with a checkpoint, when it is asked to, when its input ends because the supervisor
is gone, and one second after SIGTERM; the reason is an interruption unless the supervisor gives another one within that
second. A later SIGTERM stops it before the boundary: the attempt is recorded as interrupted, and the claim released. It
never outlives its supervisor for long, even if a library blocks an orderly shutdown.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from launch.worker.signals import STOP_SECONDS
from tensloradist.plugins import load_plugins
from tensloradist.results.claims import HEARTBEAT_SECONDS
from tensloradist.results.control import RunControl, Stopped
from tensloradist.results.execute import Train, execute
from tensloradist.results.jobs import JobRef
from tensloradist.spec import RunSpec

REASON_SECONDS = 1.0  # how long a signalled process waits for the reason from its supervisor, which is signalled, too


class Events:
    """Lines of JSON on what was standard output."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, event: str, **fields: Any) -> None:
        try:
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # the supervisor is gone, which is no failure of the run


class Stopping:
    """What a request to stop and SIGTERM do.

    The scheduler signals every process of a job, so a request and a signal may mean the same, in either order. Those
    that come within a second count as one, for the reason that the supervisor gives.
    """

    def __init__(self, control: RunControl) -> None:
        self.control = control
        self._first: float | None = None  # when it was first asked for

    def requested(self, reason: str) -> None:
        self._first = self._first or time.monotonic()
        self.control.stop_reason = reason

    def signalled(self, number: int, frame: object) -> None:
        if self.control.stopping:
            return
        if self._first is not None and time.monotonic() - self._first > REASON_SECONDS:
            raise KeyboardInterrupt
        first = self._first is None
        self._first = self._first or time.monotonic()
        if not self.control.at_boundary:
            while self.control.stop_reason is None and time.monotonic() - self._first < REASON_SECONDS:
                time.sleep(0.01)
            raise KeyboardInterrupt
        if first:
            unexplained = threading.Timer(REASON_SECONDS, self.control.stop_unexplained)
            unexplained.daemon = True
            unexplained.start()


def _requests(control: RunControl, stopping: Stopping) -> queue.SimpleQueue[dict[str, Any] | None]:
    """Requests as they arrive; the end of the input (None) interrupts the run in progress.

    A request to stop goes to the run in progress. A run that is still loading has nothing to lose and is interrupted.
    """
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    main_thread = threading.main_thread().ident

    def read() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if "stop" not in request:
                requests.put(request)
                continue
            stopping.requested(request["stop"])
            if not control.at_boundary and main_thread is not None:
                signal.pthread_kill(main_thread, signal.SIGTERM)
        requests.put(None)
        if main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(130)

    threading.Thread(target=read, name="requests", daemon=True).start()
    return requests


class Runner:
    """Serves requests to train, one after another."""

    def __init__(self, train: Train, control: RunControl, events: Events) -> None:
        self._train, self._control, self._events = train, control, events

    def serve(self, request: dict[str, Any]) -> int | None:
        """Train the run that is asked for; returns an exit code if this process must not be used again."""
        received = time.perf_counter()
        spec = RunSpec.model_validate(request["spec"])
        load_plugins(spec.plugins)
        if attempt := request.get("follow"):
            return self._follow(spec, Path(attempt))
        return self._lead(spec, request, received)

    def _follow(self, spec: RunSpec, attempt: Path) -> int | None:
        """Join an attempt as one of its processes but the first."""
        try:
            self._train(spec, attempt, None, self._control)
        except Exception as error:
            if isinstance(error, Stopped):
                raise
            traceback.print_exc()  # recorded in the attempt, too; here, since teardown may wait for the others
            return 1
        self._events.send("outcome", status="followed")
        return None

    def _lead(self, spec: RunSpec, request: dict[str, Any], received: float) -> int | None:
        """Claim and train the run, and report what became of it."""
        send = self._events.send
        job = request.get("job")
        outcome = execute(
            spec,
            Path(request["root"]),
            self._train,
            expected=request.get("expected"),
            stood_still=request.get("stood_still", False),
            heartbeat_seconds=request.get("heartbeat_seconds", HEARTBEAT_SECONDS),
            control=self._control,
            progress=lambda record: send("data" if "parts" in record else "progress", **record),
            started=lambda attempt: send("started", attempt=str(attempt), after=time.perf_counter() - received),
            job=JobRef(**job) if job else None,
        )
        failure = outcome.failure
        send(
            "outcome",
            status=outcome.status,
            attempt=str(outcome.attempt) if outcome.attempt else None,
            score=outcome.result.metrics.score if outcome.result else None,
            cause=failure.cause if failure else None,
            message=failure.message if failure else None,
        )
        is_unexpected = failure is not None and failure.cause not in ("configuration", "data_missing")
        return 3 if is_unexpected else None


def main() -> int:
    control = RunControl()
    stopping = Stopping(control)
    signal.signal(signal.SIGTERM, stopping.signalled)
    # A crash dumps no core: many of several gigabytes each would fill a quota.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    events = Events()
    try:
        requests = _requests(control, stopping)
        from tensloradist.training import train

        runner = Runner(train, control, events)
        events.send("ready", pid=os.getpid())
        while (request := requests.get()) is not None:
            if (code := runner.serve(request)) is not None:
                return code
        return 0
    except (KeyboardInterrupt, Stopped):  # a following process has no attempt of its own to record it in
        return 130


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # daemon threads and libraries must neither delay nor change the end
