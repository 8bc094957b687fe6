"""Claims: which process works on a run, without a controller, safe on NFS and Lustre.

A claim is a hard link `claim.NNNN`, one higher than the highest; the highest number owns the run and its attempt. An
owner increments a counter, its heartbeat, to show that it is alive. A contender takes over when the owner has released
the run, is known to be dead on this machine, has had no heartbeat for long by the contender's own clock, or has no
heartbeat and its cluster's scheduler no longer knows its job. Results are safe without claims, since the first
published result stays. Imports no torch.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

from pydantic import Field

from tensloradist.files import link_once, make_folder, write_replacing, write_synced
from tensloradist.records import FORM, DamagedRecord, ProcessNumber, read_record
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder, written_number

HEARTBEAT_SECONDS = 30.0
STILL_SECONDS = 180.0  # without a heartbeat, after which an owner is taken for dead
STILL_BEATS = 6  # an owner must also have missed so many of its heartbeats
# Missed heartbeats of an owner that was seen alive, before the scheduler's answer on its job counts: NFS can lag by a
# minute.
QUIET_BEATS = 3

log = logging.getLogger(__name__)


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _pid_namespace() -> str:
    """Containers on one machine can share its name and boot, but not its process numbers."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of a process's /proc/PID/stat that follow its name: first its state, at 19 its start time."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot, which tells it from a later process with the same number.

    None where that is not known; "ended" for a process that has ended but was not yet waited for.
    """
    try:
        fields = _stat(pid)
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None


@dataclass(frozen=True)
class Owner:
    """Who made a claim: a process, and the job that it runs in.

    Attributes:
        job, restart, cluster: as in `JobRef`; None: no job, or for the cluster a claim from before it was recorded.
    """

    host: str
    boot: str
    pid: ProcessNumber
    start: str | None
    namespace: str = ""
    job: str | None = None
    restart: int = 0
    heartbeat_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = HEARTBEAT_SECONDS
    cluster: str | None = None
    __pydantic_config__ = FORM

    @classmethod
    def me(cls, heartbeat_seconds: float = HEARTBEAT_SECONDS, job: JobRef | None = None) -> Owner:
        """This process, which runs in that job."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=pid,
            start=_start_time(pid),
            namespace=_pid_namespace(),
            job=job.key if job else None,
            restart=job.restart if job else 0,
            heartbeat_seconds=heartbeat_seconds,
            cluster=job.cluster if job else None,
        )

    @property
    def is_here(self) -> bool:
        """Whether this process can see the owner's process, if it lives."""
        return (self.host, self.boot, self.namespace or _pid_namespace()) == (
            socket.gethostname(),
            _boot_id(),
            _pid_namespace(),
        )

    @property
    def is_stopped_here(self) -> bool:
        """Whether its process is suspended (SIGSTOP, a debugger): then only its heartbeat tells whether it works."""
        try:
            return self.is_here and _stat(self.pid)[0] in "Tt"
        except (OSError, IndexError):
            return False

    def is_dead_here(self) -> bool:
        """Whether this machine can tell that the owner is gone; False where it cannot tell."""
        if self.host == socket.gethostname() and self.boot and _boot_id() and self.boot != _boot_id():
            return True  # the machine has been started again since
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's process: it exists, and /proc may hide the rest
            pass
        start = _start_time(self.pid)
        return start is not None and self.start is not None and start != self.start


def highest_claim(run: RunFolder) -> int:
    """The number of the owning claim; 0 if the run has never been claimed."""
    if not run.path.is_dir():
        return 0
    found = (written_number(name[6:]) for name in os.listdir(run.path) if name.startswith("claim."))
    return max((number for number in found if number is not None), default=0)


def _claim_path(run: RunFolder, number: int) -> Path:
    return run.path / f"claim.{number:04d}"


def owner_of(run: RunFolder, number: int) -> Owner:
    """Who made a claim.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    path = _claim_path(run, number)
    owner = read_record(path, Owner, "the claim")
    if owner is None:
        raise DamagedRecord(path, "the claim", "it has been removed")
    return owner


def owner_or_damage(run: RunFolder, number: int) -> Owner | DamagedRecord:
    """Who made a claim, or that its record is damaged: then only its heartbeat tells whether it lives.

    Raises:
        UnreadableRecord: made by a newer version, or not readable.
    """
    try:
        return owner_of(run, number)
    except DamagedRecord as damage:
        return damage


def beat_seconds(run: RunFolder, number: int) -> float:
    """Seconds between the heartbeats of a claim's owner; what is usual where its record is damaged."""
    owner = owner_or_damage(run, number)
    return HEARTBEAT_SECONDS if isinstance(owner, DamagedRecord) else owner.heartbeat_seconds


def beats(run: RunFolder, number: int) -> str:
    """What the heartbeat of a claim says; empty where there is none that can be read."""
    try:
        return (run.path / f"heartbeat.{number:04d}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def beat_count(run: RunFolder, number: int) -> int | None:
    """How often the owner of a claim has beaten; None where its heartbeat is none, or damaged."""
    return written_number(beats(run, number))


def is_released(run: RunFolder, number: int) -> bool:
    return (run.path / f"released.{number:04d}").exists()


JobAlive = Callable[[Owner], bool | None]
"""Whether the job of an owner may still run; None where that is not known."""


def ownership(
    run: RunFolder, job_alive: JobAlive | None = None, watch: Watch | None = None
) -> Literal["free", "alive", "unknown"]:
    """Whether a run may be claimed at once, has an owner that lives on this machine, or one that cannot be seen.

    The owner of a job that no longer runs has ended, or is an orphan that may be replaced: publishing is first-wins.

    Args:
        job_alive: what the scheduler says of the owner's job.
        watch: an owner whose heartbeat it has just seen is alive, whatever `job_alive` says.
    """
    number = highest_claim(run)
    if number == 0 or is_released(run, number):
        return "free"
    owner = owner_or_damage(run, number)
    if isinstance(owner, DamagedRecord):
        return "unknown"
    if owner.is_dead_here():
        return "free"
    if owner.is_here and not owner.is_stopped_here:
        return "alive"
    if watch is not None and watch.is_beating(run):
        return "unknown"
    return "free" if job_alive is not None and job_alive(owner) is False else "unknown"


def is_alive(run: RunFolder) -> bool:
    """Whether the run's owner may still be at work: not released, and not dead on this machine. Unknown is alive."""
    return ownership(run) != "free"


def heartbeat_for(still_seconds: float) -> float:
    """Seconds between the heartbeats of an owner that is replaced after `still_seconds` without one."""
    return min(HEARTBEAT_SECONDS, still_seconds / STILL_BEATS)


@dataclass
class Watch:
    """A contender's view of other owners' counters, over time, on its own monotonic clock.

    A counter stands still when it has not moved for `still_seconds`, and for `STILL_BEATS` of its owner's heartbeats.
    """

    still_seconds: float = STILL_SECONDS
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[int, str, float]] = field(default_factory=dict)
    _moved: set[tuple[str, int]] = field(default_factory=set)

    def look(self, run: RunFolder) -> Literal["undecided", "moved", "still"]:
        """What this watch's looks say of the run's owner.

        `moved`: its counter has changed, so it lived during this watch. `still`: it has not for long enough.
        """
        number, now = highest_claim(run), self.clock()
        counter = beats(run, number)
        before = self._seen.get(run.run_id)
        if before is None or before[:2] != (number, counter):
            self._seen[run.run_id] = (number, counter, now)
            if before is not None:
                self._moved.add((run.run_id, number))
        elif now - before[2] >= max(self.still_seconds, STILL_BEATS * beat_seconds(run, number)):
            return "still"
        return "moved" if (run.run_id, number) in self._moved else "undecided"

    def is_beating(self, run: RunFolder) -> bool:
        """Whether this watch has seen the owner's counter change, `QUIET_BEATS` of its heartbeats ago or less."""
        if self.look(run) != "moved":
            return False
        number, _, when = self._seen[run.run_id]
        return self.clock() - when < QUIET_BEATS * beat_seconds(run, number)


class Claim:
    """An owned run: a context manager that keeps the heartbeat and releases the run at an orderly end."""

    def __init__(self, run: RunFolder, number: int, heartbeat_seconds: float) -> None:
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
        try:
            write_replacing(self.run.path / f"released.{self.number:04d}", "")
        except OSError as error:  # a full disk: others find out that this process is gone, or does not beat
            log.warning("run %s could not be released: %s", self.run.run_id, error)

    def _beat(self) -> None:
        count = 0
        while True:
            count += 1
            try:
                write_replacing(self.run.path / f"heartbeat.{self.number:04d}", str(count))
            except OSError as error:  # a full disk or a lost server: others may take over, so keep trying
                log.warning("heartbeat of run %s could not be written: %s", self.run.run_id, error)
            if self._stop.wait(self._seconds):
                return

    @property
    def is_outnumbered(self) -> bool:
        """Whether another process has taken the run over."""
        return highest_claim(self.run) > self.number


def claim(
    run: RunFolder,
    *,
    expected: int | None = None,
    stood_still: bool = False,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    job: JobRef | None = None,
) -> Claim | None:
    """Claim a run that has no result and no living owner; None if it has one, or another contender was faster.

    Args:
        expected: the highest claim that the caller has judged; None is returned if there has been another since.
        stood_still: the caller has watched the owner of claim `expected` stand still (`Watch`), and takes over.
        job: the job that this process runs in.

    Raises:
        UserError: the folder cannot be written or has no hard links, or the highest claim is of a newer version.
    """
    if stood_still and expected is None:
        raise ValueError("stood_still says something of the claim `expected`, which is not given")
    make_folder(run.path)
    number = highest_claim(run)
    if run.result.exists() or (expected is not None and number != expected):
        return None
    if not stood_still and is_alive(run):
        return None
    own = run.path / f".claim-{uuid.uuid4().hex}"
    write_synced(own, json.dumps(asdict(Owner.me(heartbeat_seconds, job))))
    try:
        made = link_once(own, _claim_path(run, number + 1))
    finally:
        own.unlink()
    if not made:
        return None
    if highest_claim(run) != number + 1 or run.result.exists():  # taken over, or published, since the first look
        write_replacing(run.path / f"released.{number + 1:04d}", "")
        return None
    return Claim(run, number + 1, heartbeat_seconds)
