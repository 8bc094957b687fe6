"""The warm child of a worker: a process that trains one run after another, told which by lines of JSON.

It reads requests from standard input and writes events to standard output; what libraries print goes to standard
error. It imports torch once and keeps the last backbone and data. When its input ends (its supervisor is gone) or on
SIGTERM, it stops the run in progress in an orderly way: the attempt is recorded as interrupted, the claim released.
It never outlives its supervisor for long, even where a library does not let the orderly way happen.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from launch import STOP_SECONDS
from tensloradist.results.execute import execute
from tensloradist.spec import RunSpec


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


def _requests() -> queue.SimpleQueue[dict[str, Any] | None]:
    """Requests as they arrive; the end of the input (None) interrupts whatever is in progress."""
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    main_thread = threading.main_thread().ident

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        requests.put(None)
        if main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(130)

    threading.Thread(target=read, name="requests", daemon=True).start()
    return requests


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    events = Events()
    try:
        requests = _requests()
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
                train(spec, Path(request["follow"]), None)
                events.send("outcome", status="followed")
                continue
            outcome = execute(
                spec,
                Path(request["root"]),
                train,
                expected=request.get("expected"),
                stood_still=request.get("stood_still", False),
                progress=lambda record: events.send("progress", **record),
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
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # daemon threads and libraries must not hold up or change the end
