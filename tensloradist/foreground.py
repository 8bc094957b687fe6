"""A run in the foreground: its steps as they pass, and Ctrl-C as a request to stop with a checkpoint. No torch here."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from tensloradist.results.control import RunControl
from tensloradist.terminal import description, terminal

if TYPE_CHECKING:
    from rich.console import Console

FIRST_SECONDS, EACH_SECONDS = 2.0, 15.0  # of the lines where there is no terminal
_ONE_REQUEST_SECONDS = 1.0  # a terminal and torchrun pass on the same Ctrl-C: what comes within is one request
_STOPPING = "\nstopping after this step, with a checkpoint; Ctrl-C again stops at once, without one\n"


class Progress:
    """A bar on a terminal; elsewhere a line now and then, and one an epoch. On standard error, but for the parts."""

    def __init__(
        self, console: Console | None = None, first: float = FIRST_SECONDS, each: float = EACH_SECONDS
    ) -> None:
        self.console = console or terminal(stderr=True)
        self._next, self._each = time.monotonic() + first, each
        self.steps: int | None = None

    def __enter__(self) -> Self:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (description(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bar.start()
        self.job = self.bar.add_task("loading the backbone and the data", total=None)
        return self

    def show(self, record: dict[str, Any]) -> None:
        """A record of the training loop: of the data's parts, of a step, or of an epoch."""
        if "parts" in record:
            print(record["parts"], flush=True)  # on standard output, with what the command says of the run
        elif "loss" in record:
            self._step(record["epoch"], record["step"], record["steps"], record["loss"])
        else:
            values = "".join(f", {name} {v:.4f}" for name, v in record["validation"].items() if v is not None)
            self._say(f"epoch {record['epoch']}, {self._of(record['step'])}: validation{values[1:] or ' undefined'}")

    def _step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self.steps = steps
        self.bar.update(self.job, completed=step, total=steps, description=f"epoch {epoch}, step, loss {loss:.3f}")
        if not self.console.is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._each
            self._say(f"epoch {epoch}, {self._of(step)}: loss {loss:.4f}")

    def _of(self, step: int) -> str:
        return f"step {step}" + (f" of {self.steps}" if self.steps is not None else "")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


class Interruption:
    """While it is entered, Ctrl-C and SIGTERM stop a training run at its next step boundary, with a checkpoint.

    A run that still loads has nothing to keep and is interrupted at once, as by a second Ctrl-C.

    Args:
        speaks: whether to tell the user: of several processes the first does.
    """

    def __init__(self, control: RunControl, speaks: bool = True) -> None:
        self.control, self.speaks = control, speaks
        self._first: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:  # as a shell gives it to what runs in the background
                    self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, frame: object) -> None:
        if self.control.stopping:
            return
        now = time.monotonic()
        if self._first is not None and now - self._first < _ONE_REQUEST_SECONDS:
            return
        if self._first is not None or not self.control.at_boundary:
            raise KeyboardInterrupt
        self._first = now
        self.control.stop_reason = "interrupted"
        if self.speaks:
            os.write(2, _STOPPING.encode())  # a print could be within another print
