"""The warm child of a worker: a process that trains one run after another, told which by lines of JSON.

It reads requests from standard input and writes events to standard output; what libraries print goes to standard
error. It imports torch once and keeps the last backbone and data. Asked to stop, it does so at the next step boundary,
with a checkpoint; so it does at the end of its input, when its supervisor is gone, and a second after SIGTERM, as
interrupted unless its supervisor gives another reason meanwhile. A SIGTERM after that stops it before the boundary: the
attempt is recorded as interrupted, the claim released. It never outlives its supervisor for long, even where a library
does not let the orderly way happen.
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

from launch import STOP_SECONDS
from tensloradist.results.claims import HEARTBEAT_SECONDS
from tensloradist.results.control import RunControl, Stopped
from tensloradist.results.execute import execute
from tensloradist.spec import RunSpec

WORD_SECONDS = 1.0  # how long a signalled process waits for its supervisor, which was signalled too, to say why


class Events:
    """Lines of JSON on what was standard output."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, event: str, **fields: Any) -> None:
        try:
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # the supervisor is gone: an interruption, no failure of the run


class Stopping:
    """What a request to stop and SIGTERM do. Slurm signals every process of a job, so that both may say the same thing,
    in either order: what comes within a second is one request, and the supervisor knows the reason."""

    def __init__(self, control: RunControl) -> None:
        self.control = control
        self._first: float | None = None  # when it was first asked for

    def requested(self, reason: str) -> None:
        self._first = self._first or time.monotonic()
        self.control.stop_reason = reason

    def signalled(self, number: int, frame: object) -> None:
        if self.control.stopping:
            return
        if self._first is not None and time.monotonic() - self._first > WORD_SECONDS:
            raise KeyboardInterrupt
        first = self._first is None
        self._first = self._first or time.monotonic()
        if not self.control.at_boundary:
            while self.control.stop_reason is None and time.monotonic() - self._first < WORD_SECONDS:
                time.sleep(0.01)
            raise KeyboardInterrupt
        if first:
            unexplained = threading.Timer(WORD_SECONDS, self.control.stop_unexplained)
            unexplained.daemon = True
            unexplained.start()


def _requests(control: RunControl, stopping: Stopping) -> queue.SimpleQueue[dict[str, Any] | None]:
    """Requests as they arrive; the end of the input (None) interrupts whatever is in progress.

    A request to stop goes to the run in progress. One that is still loading has nothing to lose, and is interrupted.
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


def main() -> int:
    control = RunControl()
    stopping = Stopping(control)
    signal.signal(signal.SIGTERM, stopping.signalled)
    # A crash dumps no core: many of several gigabytes each would fill a quota.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    events = Events()
    try:
        requests = _requests(control, stopping)
        from tensloradist.plugins import load_plugins
        from tensloradist.training import train

        events.send("ready", pid=os.getpid())
        while True:
            request = requests.get()
            if request is None:
                return 0
            received = time.perf_counter()
            spec = RunSpec.model_validate(request["spec"])
            load_plugins(spec.plugins)
            if request.get("follow"):
                try:
                    train(spec, Path(request["follow"]), None, control)
                except Exception as error:
                    if isinstance(error, Stopped):
                        raise
                    traceback.print_exc()  # recorded in the attempt, too; here, since teardown may wait for the others
                    return 1
                events.send("outcome", status="followed")
                continue
            outcome = execute(
                spec,
                Path(request["root"]),
                train,
                expected=request.get("expected"),
                stood_still=request.get("stood_still", False),
                heartbeat_seconds=request.get("heartbeat_seconds", HEARTBEAT_SECONDS),
                control=control,
                progress=lambda record: events.send("data" if "parts" in record else "progress", **record),
                started=lambda attempt, began=received: events.send(  # type: ignore[misc]
                    "started", attempt=str(attempt), after=time.perf_counter() - began
                ),
            )
            failure = outcome.failure
            events.send(
                "outcome",
                status=outcome.status,
                attempt=str(outcome.attempt) if outcome.attempt else None,
                score=outcome.result.metrics.score if outcome.result else None,
                cause=failure.cause if failure else None,
                message=failure.message if failure else None,
            )
            if failure is not None and failure.cause not in ("configuration", "data_missing"):
                return 3  # a process that has seen an unexpected failure is not used again
    except (KeyboardInterrupt, Stopped):  # a following process has no attempt of its own to record it in
        return 130


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # daemon threads and libraries must not hold up or change the end
