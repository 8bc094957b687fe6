"""Seconds on a device: what it has passed, in order, whatever the host does meanwhile."""

import time

import torch

from tensloradist.training.clocks import clock_for


class Event:
    """A CUDA event of a device that is at the time `now`: an event gets the next of `times`, and is passed then."""

    now, times = 0.0, ()

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self, stream):
        self.time = Event.times.pop(0)

    def query(self):
        return self.time <= Event.now

    def elapsed_time(self, other):
        return 1000 * (other.time - self.time)


def test_an_update_takes_what_the_device_computes_and_not_what_the_host_launches(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(Event, "times", [0.0, 2.0, 2.0, 5.0])
    clock = clock_for(torch.device("cuda"))
    for _ in range(2):  # launched at once
        clock.start()
        clock.stop()
    assert clock.taken() == []
    monkeypatch.setattr(Event, "now", 3.0)
    assert clock.taken() == [2.0]
    monkeypatch.setattr(Event, "now", 9.0)
    assert clock.taken() == [3.0] and clock.taken() == []


def test_on_the_cpu_it_is_the_hosts_time():
    clock = clock_for(torch.device("cpu"))
    clock.start()
    time.sleep(0.02)
    clock.stop()
    (seconds,) = clock.taken()
    assert 0.02 <= seconds < 5 and clock.taken() == []
