"""Work that threads do ahead: in order, not too far ahead, its errors in their place, and ended with its user."""

import threading
import time

import pytest

from tensloradist.prefetching import MOST_THREADS, prefetch, threads_here


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_everything_comes_in_order_whichever_thread_is_done_first(threads):
    def make(item):
        time.sleep(0.002 if item % 3 == 0 else 0)
        return item * item

    assert list(prefetch(range(20), make, threads)) == [item * item for item in range(20)]
    assert list(prefetch([], make, threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_work_at_once_and_no_further_ahead_than_there_are_of_them(threads):
    together, made = threading.Barrier(threads), []

    def make(item):
        if item < threads:
            together.wait(10)  # broken unless all of them are at it
        made.append(item)
        return item

    taken = prefetch(range(100), make, threads)
    for item in range(10):
        assert next(taken) == item
        time.sleep(0.005)
        assert len(made) <= item + 1 + threads
    taken.close()


def test_an_error_is_raised_in_its_items_place():
    def make(item):
        if item == 2:
            raise ValueError(f"item {item}")
        return item

    made = prefetch(range(9), make, 4)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(made)


def test_closed_early_it_leaves_no_thread_and_makes_no_more():
    begun = []

    def make(item):
        begun.append(item)
        return item

    made = prefetch(range(1000), make, 2)
    next(made)
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert len(begun) <= 3


@pytest.mark.parametrize(
    ("cpus", "environment", "given", "expected"),
    [
        (8, {}, None, 8),
        (8, {}, 3, 3),
        (64, {}, None, MOST_THREADS),
        (8, {"LOCAL_WORLD_SIZE": "4"}, None, 2),
        (8, {"OMP_NUM_THREADS": "4"}, None, 4),  # a launch's share of the machine
        (8, {"OMP_NUM_THREADS": "1"}, None, 1),
        (8, {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}, None, 2),
        (2, {"LOCAL_WORLD_SIZE": "4"}, None, 1),
    ],
)
def test_a_process_has_its_share_of_the_cpus(monkeypatch, cpus, environment, given, expected):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cpus)))
    assert threads_here(given) == expected
