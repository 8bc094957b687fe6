"""Claims: which process works on a run, without a controller, safe on NFS and Lustre.

A claim is a hard link `claim.NNNN`, one higher than the highest; the highest number owns the run and its attempt. An
owner shows that it lives by a counter that it increments. A contender takes over when the owner has released the run,
is provably dead on this machine, or has stood still for long on the contender's own clock. Results do not depend on
claims for safety: publishing is first-wins. No torch here.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder, link_once, sync_folder, write_replacing

HEARTBEAT_SECONDS = 30.0
STILL_SECONDS = 180.0  # how long a counter must stand still before its owner is taken for dead


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot: tells a process from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


@dataclass(frozen=True)
class Owner:
    """Who made a claim."""

    host: str
    boot: str
    pid: int
    start: str | None

    @classmethod
    def me(cls) -> Owner:
        return cls(socket.gethostname(), _boot_id(), os.getpid(), _start_time(os.getpid()))

    def is_dead_here(self) -> bool:
        """Whether this machine can tell that the owner is gone; False where it cannot tell."""
        if self.host != socket.gethostname():
            return False
        if self.boot != _boot_id():
            return bool(self.boot)
        if not Path("/proc/self/stat").exists():
            return False
        return _start_time(self.pid) != self.start


def highest_claim(run: RunFolder) -> int:
    """The number of the owning claim; 0 if the run has never been claimed."""
    if not run.path.is_dir():
        return 0
    numbers = [int(name[6:]) for name in os.listdir(run.path) if name.startswith("claim.") and name[6:].isdigit()]
    return max(numbers, default=0)


def _claim_path(run: RunFolder, number: int) -> Path:
    return run.path / f"claim.{number:04d}"


def _owner_of(path: Path) -> Owner:
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a readable claim ({error}); remove the run's folder or restore the file"
        ) from error


def _counter(run: RunFolder, number: int) -> str:
    path = run.path / f"heartbeat.{number:04d}"
    return path.read_text() if path.exists() else ""


def is_released(run: RunFolder, number: int) -> bool:
    return (run.path / f"released.{number:04d}").exists()


def is_alive(run: RunFolder) -> bool:
    """Whether the run's owner may still be at work: not released, and not dead on this machine. Unknown is alive."""
    number = highest_claim(run)
    return number > 0 and not is_released(run, number) and not _owner_of(_claim_path(run, number)).is_dead_here()


@dataclass
class Watch:
    """A contender's view of other owners' counters, over time, on its own monotonic clock."""

    still_seconds: float = STILL_SECONDS
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[int, str, float]] = field(default_factory=dict)

    def has_stood_still(self, run: RunFolder) -> bool:
        """Whether the owner's counter has not moved for `still_seconds` of this watch's looks."""
        number, counter, now = highest_claim(run), "", self.clock()
        counter = _counter(run, number)
        before = self._seen.get(run.run_id)
        if before is None or before[:2] != (number, counter):
            self._seen[run.run_id] = (number, counter, now)
            return False
        return now - before[2] >= self.still_seconds


class Claim:
    """An owned run: a context manager that keeps the heartbeat and releases the run at an orderly end."""

    def __init__(self, run: RunFolder, number: int, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.run, self.number, self._seconds = run, number, heartbeat_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{run.run_id}", daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        write_replacing(self.run.path / f"released.{self.number:04d}", "")

    def _beat(self) -> None:
        count = 0
        while True:
            count += 1
            write_replacing(self.run.path / f"heartbeat.{self.number:04d}", str(count))
            if self._stop.wait(self._seconds):
                return

    @property
    def is_outnumbered(self) -> bool:
        """Whether somebody has taken the run over."""
        return highest_claim(self.run) > self.number


def claim(
    run: RunFolder,
    watch: Watch | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    expected: int | None = None,
) -> Claim | None:
    """Claim a run that has no result and no living owner; None if it has one, or another contender was faster.

    Args:
        watch: remembers the counters of owners on other machines; without it those are never taken over.
        expected: the highest claim that the caller knows of; None is returned if there has been another since.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    number = highest_claim(run)
    if run.result.exists() or (expected is not None and number != expected):
        return None
    if number and is_alive(run) and not (watch is not None and watch.has_stood_still(run)):
        return None
    own = run.path / f".claim-{uuid.uuid4().hex}"
    with own.open("x") as file:
        json.dump(Owner.me().__dict__, file)
        file.flush()
        os.fsync(file.fileno())
    made = link_once(own, _claim_path(run, number + 1))
    if not made or highest_claim(run) != number + 1:
        own.unlink()
        return None
    own.unlink()
    sync_folder(run.path)
    if run.result.exists():  # published between the first look and the claim
        write_replacing(run.path / f"released.{number + 1:04d}", "")
        return None
    return Claim(run, number + 1, heartbeat_seconds)
