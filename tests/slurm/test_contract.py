"""Slurm itself keeps the contract of every scheduler, like the stand-ins and the pool (tests/launch)."""

import os
from pathlib import Path

import pytest
import scheduler_contract
from contract_job import contract_job
from scheduler_contract import *  # noqa: F403 (its tests)
from scheduler_contract import Site

from launch.slurm.client import Slurm
from launch.slurm.profile import Options

pytestmark = pytest.mark.slurm


class ClusterSite(Site):
    """The development cluster."""

    job, scheduler = staticmethod(contract_job), Slurm()
    options = Options(partition="high", memory_gb=1, time_minutes=10).model_dump(mode="json")

    def __init__(self, folder, monkeypatch):
        super().__init__(folder)
        self._monkeypatch = monkeypatch
        places = (Path(__file__).parent, Path(scheduler_contract.__file__).parent)
        for place in places:
            monkeypatch.setenv("PYTHONPATH", str(place), prepend=os.pathsep)

    def silence(self):
        self._monkeypatch.setenv("PATH", str(self.folder))


@pytest.fixture
def site(cluster, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        yield ClusterSite(tmp_path, patched)
