"""What follows from failures: by cause, by number, and for a cell whose first runs fail alike."""

from typing import get_args

import pytest

from launch.policy import BREAKER, RULES, decide, to_hold
from tensloradist.results.schema import Cause, Failure

COMPUTE = {"compute": {"processes": 2, "micro_batch": None}, "optimizer": {"batch_size": 32}}


def failures(*causes, traceback=None):
    return [
        Failure(run_id="r", attempt=number, cause=cause, message="m", traceback=traceback)
        for number, cause in enumerate(causes, 1)
    ]


def test_every_cause_has_a_rule_with_advice():
    assert set(RULES) == set(get_args(Cause))
    assert all(rule.advice for rule in RULES.values())


@pytest.mark.parametrize("cause", ["preempted", "time_limit", "node_failure", "interrupted"])
def test_what_the_site_does_costs_a_run_nothing(cause):
    assert decide(failures(*[cause] * 50), COMPUTE).action == "retry"


@pytest.mark.parametrize("cause", ["configuration", "data_missing", "disk_full", "cancelled"])
def test_what_would_only_come_again_is_not_tried_again(cause):
    assert decide(failures(cause), COMPUTE).action == "stop"


@pytest.mark.parametrize(("cause", "retries"), [("killed", 5), ("communication", 3), ("out_of_host_memory", 1)])
def test_retries_are_counted_by_cause(cause, retries):
    assert decide(failures(*[cause] * retries), COMPUTE).action == "retry"
    assert decide(failures("preempted", *[cause] * retries, "preempted"), COMPUTE).action == "retry"
    assert decide(failures(*[cause] * (retries + 1)), COMPUTE).action == "stop"


def test_a_crash_is_tried_again_and_an_exception_is_not():
    assert decide(failures("bug"), COMPUTE).action == "retry"
    assert decide(failures("bug", "bug"), COMPUTE).action == "stop"
    assert decide(failures("bug", traceback="Traceback …"), COMPUTE).action == "stop"


def test_out_of_gpu_memory_halves_the_micro_batch_until_one():
    seen, compute = [], dict(COMPUTE["compute"])
    while True:
        decision = decide(failures("out_of_device_memory"), {**COMPUTE, "compute": compute})
        if decision.action != "retry_smaller":
            break
        seen.append(decision.micro_batch)
        compute["micro_batch"] = decision.micro_batch
    assert seen == [8, 4, 2, 1] and "1 already" in decision.reason


def test_the_circuit_breaker():
    assert to_hold(failures(*["configuration"] * BREAKER), finished=0) is not None
    assert to_hold(failures(*["configuration"] * (BREAKER - 1)), finished=0) is None
    assert to_hold(failures("configuration", "bug", "data_missing"), finished=0) is None, "not alike"
    assert to_hold(failures(*["configuration"] * BREAKER), finished=1) is None
    assert to_hold(failures(*["preempted"] * 9), finished=0) is None, "says nothing of the cell"
