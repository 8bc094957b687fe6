"""Runs of several Slurm tasks: the worker of the first task leads, and the others follow the files that it writes.

The files lie in the launch's folder, in `boards/JOB.RESTART`: `NNNN.json` announces a run, `NNNN.crash.RANK` says that
one of its processes has died, `NNNN.done` that the run is over, `end` that no other run will come. Each run has new
processes and its own port, so that it never connects to processes left over from another run.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.slurm import commands
from launch.worker.children import Child, ChildFactory, Crash
from launch.worker.signals import STOP_SECONDS
from tensloradist.files import write_once, write_replacing
from tensloradist.records import read_object

POLL_SECONDS = 0.2
LOWEST_PORT, PORTS = 20_000, 12_000  # below the ephemeral ports, which other programs' connections use


@dataclass(frozen=True)
class Place:
    """This task's place among the job's tasks, and the job's key and restart count."""

    rank: int
    tasks: int
    local_rank: int
    local_tasks: int
    address: str
    job: str
    restart: int

    @classmethod
    def here(cls) -> Place:
        """As submitit and Slurm say.

        `TorchDistributedEnvironment` is read, not exported: exporting works once per process, its port depends on the
        job alone, and by default it replaces Slurm's CUDA_VISIBLE_DEVICES by the local rank.
        """
        import submitit

        env, torch_env = submitit.JobEnvironment(), submitit.helpers.TorchDistributedEnvironment()
        return cls(
            torch_env.rank,
            torch_env.world_size,
            torch_env.local_rank,
            torch_env.local_world_size,
            torch_env.master_addr,
            env.job_id,
            commands.restart_count(),
        )

    def worker_name(self, index: int) -> str:
        """The name of one of the job's workers, which its files have."""
        return f"{self.job}.{self.restart}.{index}"

    def environment(self, number: int) -> dict[str, str]:
        """What torch.distributed needs for the job's run of that number."""
        port = LOWEST_PORT + zlib.crc32(f"{self.job}.{self.restart}.{number}".encode()) % PORTS
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.tasks),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_tasks),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
        }


class Rendezvous:
    """The folder through which a job's tasks agree."""

    def __init__(self, launch_folder: Path, place: Place) -> None:
        self.folder = launch_folder / "boards" / f"{place.job}.{place.restart}"

    def post(self, number: int, **fields: Any) -> None:
        write_once(self.folder / f"{number:04d}.json", json.dumps(fields))

    def posted(self, number: int) -> dict[str, Any] | None:
        return read_object(self.folder / f"{number:04d}.json", "the word on a run's processes")

    def finish(self, number: int) -> None:
        write_once(self.folder / f"{number:04d}.done", "")

    def is_finished(self, number: int) -> bool:
        return (self.folder / f"{number:04d}.done").exists()

    def say_crashed(self, number: int, rank: int, code: int, log: str) -> None:
        write_replacing(self.folder / f"{number:04d}.crash.{rank}", json.dumps({"code": code, "log": log}))

    def crash(self, number: int) -> Crash | None:
        for path in sorted(self.folder.glob(f"{number:04d}.crash.*")):
            if (word := read_object(path, "the word on a crash")) is not None:
                return Crash(int(word["code"]), str(word["log"]), rank=int(path.suffix[1:]))
        return None

    def end(self) -> None:
        write_once(self.folder / "end", "")

    @property
    def has_ended(self) -> bool:
        return (self.folder / "end").exists()


class NodeGroup:
    """One run's processes over the job's tasks, as the leading task sees them."""

    def __init__(self, rendezvous: Rendezvous, number: int, lead: Child) -> None:
        self.lead, self._rendezvous, self._number = lead, rendezvous, number

    def follow(self, spec: dict[str, Any], attempt: str) -> None:
        self._rendezvous.post(self._number, spec=spec, attempt=attempt)

    def crash(self) -> Crash | None:
        return self._rendezvous.crash(self._number)

    def ask_to_stop(self, reason: str) -> None:
        """Ask the leading process alone: all processes agree at their next step boundary."""
        self.lead.request(stop=reason)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        self._rendezvous.finish(self._number)
        self.lead.stop(seconds)


def follow(rendezvous: Rendezvous, place: Place, children: ChildFactory, stop_reason: Callable[[], str | None]) -> None:
    """Work as a following task: start a process for each run that the leading task posts, until that says `end`.

    Args:
        children: starts this task's processes; the job gives each task its own processors.
        stop_reason: why a signal asked this task to stop, if one did. Its process is told, and the others agree with
            it.
    """
    number = 1
    while True:
        posted = rendezvous.posted(number)
        if posted is None:
            if rendezvous.has_ended:
                return
            time.sleep(POLL_SECONDS)
            continue
        child = children.child(place=place.environment(number))
        child.request(spec=posted["spec"], follow=posted["attempt"])
        passed_on = False
        while True:
            event = child.next_event(POLL_SECONDS)
            if event is None and not rendezvous.is_finished(number):
                rendezvous.say_crashed(number, place.rank, child.wait(), str(children.log))
            if event is None or event["event"] == "outcome" or rendezvous.is_finished(number):
                break
            if not passed_on and (reason := stop_reason()):
                child.request(stop=reason)
                passed_on = True
        child.stop()
        number += 1
