"""Running one part in a process of its own: within its time, and whatever becomes of it. No torch here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_check.part import Part
from gpu_check.report import Row

MARK = "TENSLORADIST_GPU_CHECK"  # in the environment of all that a part starts, by which they are found
GRACE_SECONDS = 3.0  # between asking a part's processes to end and ending them
SILENCE_SECONDS = 10.0  # after so long without a word, the seconds are shown
LAST_LINES = 30


def run_in_process(
    part: Part,
    *,
    device: str,
    folder: Path,
    seconds: float,
    options: dict[str, Any],
    environment: dict[str, str],
    say: Callable[[str], None],
) -> Iterator[Row]:
    """The part's rows, as they come. A crash, a hang and an end without a word are a row that falls short.

    Args:
        folder: where the part may write; it is made.
        seconds: after which all of the part's processes are ended.
        say: called with what the part is at.
    """
    folder.mkdir(parents=True)
    scratch, log, events = folder / "scratch", folder / "output", folder / "events"
    scratch.mkdir()
    events.touch()
    request = {
        "part": part.name,
        "module": part.module,
        "needs": part.needs,
        "device": device,
        "folder": str(scratch),
        "events": str(events),
        "ends": time.time() + seconds,
        "options": options,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    mark = uuid.uuid4().hex
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_check.part", str(folder / "request.json")],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env={**environment, MARK: mark},
            start_new_session=True,
        )
    try:
        end = yield from _followed(process, events, time.monotonic() + seconds, say)
    finally:
        end_all(mark)
        with suppress(subprocess.TimeoutExpired):  # one that waits for a broken device's driver does not end
            process.wait(2)
    if not end.done:
        lines = last_lines(log)
        late = end.late or process.returncode is None
        text = f"not done after its {seconds:.0f} s" if late else _reason(process.returncode)
        text += f"; it was at: {end.said}" if end.said else ""
        text += f"; its last line: {lines[-1]}" if lines else ""
        yield Row(part=part.name, check="all of it", state="falls short", text=text, output=tuple(lines))


@dataclass
class _End:
    """How a part has ended: done, late, or neither, and then its process has ended before; what it was at."""

    done: bool = False
    late: bool = False
    said: str = ""


def _followed(
    process: subprocess.Popen[bytes], events: Path, deadline: float, say: Callable[[str], None]
) -> Generator[Row, None, _End]:
    """Yields the rows that the part writes, until it is done, its process has ended, or its time is up."""
    end, heard = _End(), time.monotonic()
    with events.open("rb") as stream:
        while True:
            running, late = process.poll() is None, time.monotonic() > deadline
            while (line := stream.readline()).endswith(b"\n"):
                event, heard = json.loads(line), time.monotonic()
                if "say" in event:
                    end.said = event["say"]
                    say(end.said)
                if "row" in event:
                    yield Row(**{**event["row"], "output": tuple(event["row"]["output"])})
                if "end" in event:
                    end.done = True
                    return end
            if line:  # half a line: the rest is still being written
                stream.seek(-len(line), os.SEEK_CUR)
            if not running or late:
                end.late = running
                return end
            if time.monotonic() - heard > SILENCE_SECONDS:
                heard = time.monotonic()
                say(f"still at it; {deadline - heard:.0f} s are left to it")
            time.sleep(0.1)


def _reason(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code} before it was done"
    with suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"


def last_lines(log: Path) -> list[str]:
    """The last lines of a log that are not empty."""
    text = log.read_text(encoding="utf-8", errors="replace")[-20_000:]
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:]


def end_all(mark: str) -> None:
    """End every process that was started with this mark in its environment, whatever session it is in."""
    deadline = time.monotonic() + GRACE_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        found = _marked(mark)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        while found and time.monotonic() < deadline:
            time.sleep(0.05)
            found = _marked(mark)


def _marked(mark: str) -> list[int]:
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with suppress(OSError):  # gone meanwhile, or another user's
                if wanted in (folder / "environ").read_bytes().split(b"\0") and not _is_zombie(folder):
                    found.append(int(folder.name))
    return found


def _is_zombie(folder: Path) -> bool:
    return (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] == "Z"
