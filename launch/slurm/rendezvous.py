"""Runs of several Slurm tasks: the first task's worker leads, and the others follow what it posts on a board of files.

The board is a folder in the launch's folder, one for each job and restart: `NNNN.json` announces the run's processes,
`NNNN.crash.RANK` says that one of them has died, `NNNN.done` that the run is over, `end` that no other will come. Each
run gets fresh processes and a port of its own, so that it never meets the orphans of another.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import STOP_SECONDS
from launch.worker.children import Child, ChildFactory, Crash
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

        `TorchDistributedEnvironment` is asked, not exported: it can be but once a process, its port depends on the job
        alone, and its default would replace Slurm's CUDA_VISIBLE_DEVICES by the local rank.
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
            int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

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


class Board:
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

    def __init__(self, board: Board, number: int, lead: Child) -> None:
        self.lead, self._board, self._number = lead, board, number

    def follow(self, spec: dict[str, Any], attempt: str) -> None:
        self._board.post(self._number, spec=spec, attempt=attempt)

    def crash(self) -> Crash | None:
        return self._board.crash(self._number)

    def ask_to_stop(self, reason: str) -> None:
        """The leading process alone is told: all processes agree at their next step boundary."""
        self.lead.request(stop=reason)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        self._board.finish(self._number)
        self.lead.stop(seconds)


def follow(board: Board, place: Place, children: ChildFactory, told: Callable[[], str | None]) -> None:
    """A following task's work: a process for each run that the leading task posts, until it ends the board.

    Args:
        children: starts this task's processes; the job gives each task its own processors.
        told: why this task was signalled to stop, if it was: its process is told, and the others agree with it.
    """
    number = 1
    while True:
        posted = board.posted(number)
        if posted is None:
            if board.has_ended:
                return
            time.sleep(POLL_SECONDS)
            continue
        child = children.child(place=place.environment(number))
        child.request(spec=posted["spec"], follow=posted["attempt"])
        passed_on = False
        while True:
            event = child.next_event(POLL_SECONDS)
            if event is None and not board.is_finished(number):
                board.say_crashed(number, place.rank, child.wait(), str(children.log))
            if event is None or event["event"] == "outcome" or board.is_finished(number):
                break
            if not passed_on and (reason := told()):
                child.request(stop=reason)
                passed_on = True
        child.stop()
        number += 1
