"""When the processes of a run on accelerators agree whether to stop: by the time of an update, decided by the first."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from tensloradist.results.control import RunControl
from tensloradist.training.boundary import Boundary


class Process:
    """One process of several on a GPU, whose exchanges are answered with the first process's values."""

    def __init__(self, seconds, first=True, waits=None, checkpoint_steps=None):
        compute = SimpleNamespace(checkpoint_steps=checkpoint_steps, checkpoint_seconds=None)
        accelerator = SimpleNamespace(
            num_processes=4, is_main_process=first, device=SimpleNamespace(type="cuda"), process_index=0 if first else 1
        )
        self.state = SimpleNamespace(
            step=0, step_seconds=[], accelerator=accelerator, spec=SimpleNamespace(compute=compute)
        )
        self.seconds, self.agreed_at, self.waits = seconds, [], waits if waits is not None else []
        self.first = first
        self.boundary = Boundary(self.state, None, RunControl())
        self.boundary._exchanged = self._exchanged

    def _exchanged(self, values):
        self.agreed_at.append(self.state.step)
        if self.first:
            self.waits.append(values[-1])
            return values
        return [*values[:-1], self.waits[len(self.agreed_at) - 1]]

    def updates(self, number):
        for _ in range(number):
            self.state.step += 1
            self.state.step_seconds.append(self.seconds)
            self.boundary.reached()
        return self.agreed_at


@pytest.mark.parametrize(("seconds", "between"), [(30.0, 1), (0.5, 4), (0.01, 200)])
def test_processes_agree_every_few_seconds_however_long_an_update_takes(seconds, between):
    agreed = Process(seconds).updates(1000)
    assert all(later - earlier == between for earlier, later in pairwise(agreed[1:]))
    assert between * seconds <= max(2.0, seconds)


def test_all_processes_agree_after_the_same_updates_whatever_their_own_times():
    first = Process(0.1)
    slow = Process(3.0, first=False, waits=first.waits)
    assert first.updates(200) == slow.updates(200)


def test_an_agreement_falls_on_every_checkpoint(monkeypatch):
    saved = []
    monkeypatch.setattr("tensloradist.training.boundary.save", lambda state, folder: saved.append(state.step))
    Process(0.001, checkpoint_steps=7).updates(30)
    assert saved == [7, 14, 21, 28]
