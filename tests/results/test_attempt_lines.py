"""What is on record of an attempt, as the one line that the report, `explain` and `logs` show."""

from datetime import UTC, timedelta, timezone

import pytest

from tensloradist.results.attempts import attempt_line, end_attempt
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import write_failure
from tensloradist.results.schema import AttemptEnd, AttemptRecord, Failure, ResumedFrom, SlurmJob


@pytest.fixture
def run(tmp_path):
    """A run whose first attempt began at 2023-11-14 22:13:20 UTC."""
    run = RunFolder(tmp_path, "r")
    run.attempt(1).mkdir(parents=True)
    began = AttemptRecord(
        run_id="r",
        attempt=1,
        started=1.7e9,
        host="node1",
        user="somebody",
        pid=1,
        slurm=SlurmJob(
            job_id="7", array_job_id=None, array_task_id=None, restart_count=2, partition=None, node_list=None
        ),
        compute={},
        resumed_from=ResumedFrom(attempt=3, step=40, checkpoint="attempts/0003/checkpoints/40"),
    )
    (run.attempt(1) / "attempt.json").write_text(began.model_dump_json())
    return run


START = "2023-11-14 22:13:20 UTC on node1, job 7, restart 2; from step 40 of attempt 3; "


def test_an_attempt_without_an_end_says_so(run):
    assert attempt_line(run, 1) == START + "did not record how it ended"
    (run.attempt(1) / "result.json").write_text("{}")
    assert attempt_line(run, 1) == START + "has a result"


def test_a_failure_is_told_once_with_its_message(run):
    end_attempt(run.attempt(1), AttemptEnd(run_id="r", attempt=1, ended=1.7e9 + 200, state="failed", cause="bug"))
    assert attempt_line(run, 1) == START + "failed after 3 min 20 s (bug)"
    write_failure(run.attempt(1), Failure(run_id="r", attempt=1, cause="bug", message="it broke"))
    assert attempt_line(run, 1) == START + "failed after 3 min 20 s; bug: it broke"


def test_times_are_in_the_zone_that_is_asked_for(run):
    assert attempt_line(run, 1, timezone(timedelta(hours=2))).startswith("2023-11-15 00:13:20 on node1")
    assert attempt_line(run, 1, UTC).startswith("2023-11-14 22:13:20 UTC")


def test_an_unreadable_record_does_not_hide_the_others(run):
    (run.attempt(1) / "end.json").write_text("{")
    line = attempt_line(run, 1)
    assert line.startswith(START + "! ") and "end.json" in line and "did not record" not in line
