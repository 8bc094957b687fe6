"""Run commands with a time limit that holds even if the kernel does not release the process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_KILLED_SECONDS = 2.0  # to wait for a killed process; one blocked in a broken device's driver never ends


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative for a signal; None: it did not end in time) and its output."""

    code: int | None
    output: str
    errors: str


def run_bounded(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command, and kill it after this many seconds.

    Unlike this function, subprocess.run waits for a killed process without a limit.

    Raises:
        OSError: the command cannot be started.
    """
    with TemporaryDirectory(prefix="tensloradist-") as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True
            )
        code: int | None = None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also after Ctrl-C
            if code is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_KILLED_SECONDS)
        return Ended(code, *(path.read_text(encoding="utf-8", errors="replace") for path in (output, errors)))
