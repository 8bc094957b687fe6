"""What follows from failures: by cause, by number, and for a cell whose first runs fail alike."""

import json
from dataclasses import asdict
from typing import get_args

import pytest
from synthetic import planned_run, spec_of

from launch.records.policy import BREAKER, MOST_GROWTH, RULES, Growth, decide, to_hold
from launch.slurm.profile import Options
from launch.worker.failures import FailureBook, demand_of
from tensloradist.files import write_once
from tensloradist.results.holds import held
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import write_failure
from tensloradist.results.schema import Cause, Failure

SPEC = spec_of(compute={"strategy": "ddp", "processes": 2}, optimizer={"batch_size": 32})


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
    assert decide(failures(*[cause] * 50), SPEC).action == "retry"


@pytest.mark.parametrize("cause", ["configuration", "data_missing", "disk_full", "cancelled"])
def test_what_would_only_come_again_is_not_tried_again(cause):
    assert decide(failures(cause), SPEC).action == "stop"


@pytest.mark.parametrize(("cause", "retries"), [("killed", 5), ("communication", 3), ("out_of_host_memory", 1)])
def test_retries_are_counted_by_cause(cause, retries):
    assert decide(failures(*[cause] * retries), SPEC).action == "retry"
    assert decide(failures("preempted", *[cause] * retries, "preempted"), SPEC).action == "retry"
    assert decide(failures(*[cause] * (retries + 1)), SPEC).action == "stop"


def test_a_crash_is_tried_again_and_an_exception_is_not():
    assert decide(failures("bug"), SPEC).action == "retry"
    assert decide(failures("bug", "bug"), SPEC).action == "stop"
    assert decide(failures("bug", traceback="Traceback …"), SPEC).action == "stop"


def test_out_of_gpu_memory_halves_the_micro_batch_until_one():
    seen, spec = [], SPEC
    while True:
        decision = decide(failures("out_of_device_memory"), spec)
        if decision.action != "retry_smaller":
            break
        seen.append(decision.micro_batch)
        compute = spec.compute.model_copy(update={"micro_batch": decision.micro_batch})
        spec = spec.model_copy(update={"compute": compute})
    assert seen == [8, 4, 2, 1] and "1 already" in decision.reason


def test_out_of_host_memory_in_a_job_asks_for_twice_as_much_up_to_a_bound():
    given, seen = Growth(), []
    while (decision := decide(failures("out_of_host_memory"), SPEC, given)).action == "retry_larger":
        given = decision.growth
        seen.append(given.memory)
    assert seen == [2, 4, MOST_GROWTH] and decision.action == "stop" and "memory_gb" in decision.reason
    unknown = Growth().of(memory_gb=None)
    assert decide(failures("out_of_host_memory"), SPEC, unknown).action == "retry", "the default cannot be multiplied"


def test_a_time_limit_asks_for_more_time_only_where_a_whole_job_brought_nothing():
    def ended_at(*steps):
        return [
            failure.model_copy(update={"kept_step": step})
            for failure, step in zip(failures(*["time_limit"] * len(steps)), steps, strict=True)
        ]

    assert decide(ended_at(100, 200), SPEC, Growth()).action == "retry"
    assert decide(ended_at(100), SPEC, Growth()).action == "retry", "one job says nothing"
    assert decide(ended_at(100, 100), SPEC, Growth()).growth == Growth(time=2)
    assert decide(ended_at(0, 0), SPEC, Growth(memory=2, time=2)).growth == Growth(memory=2, time=4)
    assert decide(ended_at(100, 100), SPEC, Growth(time=MOST_GROWTH)).action == "stop"


def test_a_grown_profile_asks_for_more_and_covers_what_was_needed():
    options = Options(memory_gb=4, time_minutes=30).grown(Growth(memory=2, time=4))
    assert (options.memory_gb, options.time_minutes) == (8, 120)
    assert Options(time_minutes=30).grown(Growth(memory=2)).memory_gb is None
    assert Growth(memory=2).covers(Growth()) and not Growth(memory=2).covers(Growth(time=2))


def test_a_run_that_needs_more_is_settled_for_small_jobs_and_open_for_larger_ones(tmp_path):
    folder = RunFolder(tmp_path, "r")
    write_failure(folder.attempt(1), failures("out_of_host_memory")[0])
    decision = decide(failures("out_of_host_memory"), SPEC, Growth())
    write_once(folder.attempt(1) / "decision.json", json.dumps({"cause": "out_of_host_memory", **asdict(decision)}))
    assert demand_of(folder) == Growth(memory=2)
    same, larger, elsewhere = (FailureBook(tmp_path, [], {"r": 1}, given) for given in (Growth(), Growth(2), None))
    assert same.needs_more(folder) and same.is_settled(folder)
    assert not larger.needs_more(folder) and not larger.is_settled(folder)
    assert not elsewhere.is_settled(folder), "outside of a job nothing is rationed"


def test_the_circuit_breaker():
    assert to_hold(failures(*["configuration"] * BREAKER)) is not None
    assert to_hold(failures(*["configuration"] * (BREAKER - 1))) is None
    assert to_hold(failures("configuration", "bug", "data_missing")) is None, "not alike"
    assert to_hold(failures(*["preempted"] * 9)) is None, "says nothing of the cell"
    assert to_hold(failures(*["device_failure"] * 9)) is None, "says nothing of the cell"


@pytest.mark.parametrize("finished_before", [False, True])
def test_one_result_by_an_earlier_launch_keeps_the_breaker_open(tmp_path, finished_before):
    whole = [planned_run(f"r{seed}", spec_of(seed)) for seed in range(10)]
    reads = []

    def manifest():
        reads.append(1)
        return whole

    mine = whole[3:]
    book = FailureBook(tmp_path, mine, {run.run_id: 0 for run in mine}, manifest=manifest)
    if finished_before:
        write_once(RunFolder(tmp_path, "r0").result, "{}")
    for number, run in enumerate(mine[:BREAKER], 1):
        folder = RunFolder(tmp_path, run.run_id)
        write_failure(folder.attempt(1), failures("killed")[0])
        book.decide(run, folder)
        assert bool(reads) == (number == BREAKER), "the whole manifest is read only before a cell would be held"
    held_ones = [run.run_id for run in mine if held(RunFolder(tmp_path, run.run_id))]
    assert held_ones == ([] if finished_before else ["r6", "r7", "r8", "r9"])
