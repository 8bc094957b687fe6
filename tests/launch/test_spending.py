"""What attempts have cost, and what of it was wasted: no work that a checkpoint hands on."""

import json

import pytest

from launch.monitor.spending import spending
from tensloradist.files import write_once
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import write_failure
from tensloradist.results.schema import AttemptEnd, AttemptRecord, Failure, ResumedFrom


@pytest.fixture
def attempt(tmp_path):
    """Write an attempt of ten seconds: it begins at a step, ends at another, and a checkpoint keeps a third."""
    run = RunFolder(tmp_path, "r")

    def write(number, begun, ended, kept, cause="preempted", of=None):
        resumed = ResumedFrom(attempt=of or number - 1, step=begun, checkpoint="c") if begun else None
        record = AttemptRecord(
            run_id="r",
            attempt=number,
            started=100.0 * number,
            host="h",
            user="u",
            pid=1,
            slurm=None,
            compute={},
            resumed_from=resumed,
        )
        write_once(run.attempt(number) / "attempt.json", record.model_dump_json())
        end = AttemptEnd(
            run_id="r", attempt=number, ended=100.0 * number + 10, state="failed", cause=cause, steps=ended
        )
        write_once(run.attempt(number) / "end.json", end.model_dump_json())
        failure = Failure(run_id="r", attempt=number, cause=cause, message="m", kept_step=kept)
        write_failure(run.attempt(number), failure)
        return run

    return write


@pytest.mark.parametrize("ending", ["killed", "a bug"])
def test_an_attempt_that_said_no_steps_has_done_what_its_metrics_say(tmp_path, attempt, ending):
    """Killed, it writes no end; after a bug, its end has no steps. A later attempt goes on from step 10 of 1000."""
    run = attempt(1, 0, None, 10, "killed" if ending == "killed" else "bug")
    attempt(2, 10, 20, 20)
    if ending == "killed":
        (run.attempt(1) / "end.json").unlink()
        (run.path / "heartbeat.0001").write_text("101")
        owner = {"host": "h", "boot": "b", "pid": 1, "start": "1", "heartbeat_seconds": 0.1}
        (run.path / "claim.0001").write_text(json.dumps(owner))
    (run.attempt(1) / "metrics.jsonl").write_text('{"step": 1000, "steps": 1000}\n{"step": 10')
    assert spending(run).wasted_seconds == pytest.approx(9.9)


@pytest.mark.parametrize("cause", ["preempted", "time_limit", "cancelled", "interrupted"])
def test_a_stopped_attempt_whose_checkpoint_will_be_used_is_no_waste(attempt, cause):
    spent = spending(attempt(1, 0, 40, 40, cause))
    assert spent.seconds == 10 and spent.wasted_seconds == 0


def test_what_was_done_after_the_checkpoint_is_wasted(attempt):
    assert spending(attempt(1, 0, 40, 30)).wasted_by_cause == {"preempted": 2.5}


def test_a_failure_that_stops_the_run_wastes_all_of_its_attempt(attempt):
    assert spending(attempt(1, 0, 40, 40, "bug")).wasted_by_cause == {"bug": 10.0}


def test_a_checkpoint_counts_although_another_attempt_that_began_at_it_came_to_nothing(attempt):
    attempt(1, 0, 40, 40)
    attempt(2, 40, 40, 40)
    run = attempt(3, 40, 60, 60, of=1)
    assert spending(run).wasted_by_cause == {"preempted": 10.0}, "only the second one's"
