"""Runs of several Slurm tasks: what each task's process is given."""

from pathlib import Path
from typing import ClassVar

import pytest

from launch.records.submission import Submission
from launch.slurm.rendezvous import Place, Rendezvous, follow
from launch.worker import children
from launch.worker.children import ChildFactory


class Recorded:
    """A child that is over at once, and keeps the environment it was given."""

    environments: ClassVar[list] = []

    def __init__(self, log, environment, command=None):
        self.environments.append(environment)

    def request(self, **fields):
        pass

    def next_event(self, seconds):
        return {"event": "outcome"}

    def stop(self):
        pass


@pytest.mark.parametrize("rank", [0, 3])
def test_every_task_uses_all_of_its_own_processors(tmp_path, monkeypatch, rank):
    """Slurm gives each task of a run `cpus_per_worker` processors: they are not shared out a second time."""
    monkeypatch.setattr(children, "Child", Recorded)
    Recorded.environments.clear()
    place = Place(rank=rank, tasks=4, local_rank=rank, local_tasks=4, address="n1", job="7", restart=0)
    factory, rendezvous = ChildFactory(Submission("m", "r", threads=12), 0, Path("log")), Rendezvous(tmp_path, place)
    rendezvous.post(1, spec={}, attempt="a")
    rendezvous.end()
    if rank:
        follow(rendezvous, place, factory, lambda: None)
    else:
        factory.child(place=place.environment(1))
    (environment,) = Recorded.environments
    assert (environment["OMP_NUM_THREADS"], environment["RANK"]) == ("12", str(rank))
