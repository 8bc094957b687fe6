"""What every scheduler keeps to: tests over a fixture `site`, for the modules that bring one."""

import json
import sys
import time
from pathlib import Path

import pytest

from launch.records.submission import Submission
from launch.scheduler import UNENDED, JobRefused, JobRequest, base_id, living
from tensloradist.errors import UserError
from tensloradist.files import write_once


def work_until_told(scheduler, submission):
    """A task that says which job it is in, waits for a file with its exit code, and gives a reason."""
    job, folder = scheduler.current_job(), Path(submission).parent
    write_once(folder / f"job-{job.key}", json.dumps(vars(job)))
    while not (path := folder / f"end-{job.key}").exists():
        assert scheduler.cluster() is not None, "nobody serves this job any more"
        time.sleep(0.1)
    print("the reason", file=sys.stderr)
    sys.exit(int(path.read_text()))


def wait_for(condition, seconds=120):
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


class Site:
    """A scheduler under test, and what makes its jobs begin and end.

    Attributes:
        job: what the jobs run; begun, it waits for `end`.
        options: of the submissions.
    """

    options = None

    def __init__(self, folder):
        self.folder, self.submitted, self.launches = folder, 0, []

    def submit(self, tasks=1):
        """Queue a job; returns its keys."""
        self.submitted += 1
        folder = self.folder / "sweeps" / "s" / "launches" / str(self.submitted)
        path = folder / "submission-0.json"
        write_once(path, Submission("m", "r", 1, options=self.options, tasks=tasks).to_json())
        request = JobRequest(
            name="s", run=self.job, submission=path, tasks=tasks, parallel=tasks, logs=folder / "submitit-0"
        )
        job_id = self.scheduler.submit(request)
        keys = [job_id] if tasks == 1 else [f"{job_id}_{task}" for task in range(tasks)]
        self.launches.append((folder, keys))
        self.queued(keys)
        return keys

    def queued(self, keys):
        """Let the scheduler know of jobs that were submitted: a real one does by itself."""

    def begin(self, keys):
        """Let jobs begin, and return when they have."""
        wait_for(lambda: all(self.scheduler.alive()[key].state == "RUNNING" for key in keys))

    def end(self, key, code):
        """Let a job end with an exit code, and return when it has."""
        write_once(self.launch_of(key) / f"end-{key}", str(code))
        wait_for(lambda: key not in self.scheduler.alive() and not self.is_unended(key))

    def is_unended(self, key):
        """Whether nothing says how a job ended: its record may be absent, or lag behind."""
        found = self.scheduler.end_of(key, 0)
        return found is None or found.state in UNENDED

    def settle(self):
        """Let the scheduler do what it was asked: a real one does by itself."""

    def enforce_limits(self):
        """Let the scheduler refuse what exceeds its limits: a real one does by itself."""

    def job_of(self, key, monkeypatch):
        """What a process of the job says of it."""
        return json.loads(wait_for(lambda: (path := self.launch_of(key) / f"job-{key}").exists() and path.read_text()))

    def launch_of(self, key):
        """The launch folder of a job."""
        return next(folder for folder, keys in self.launches if key in keys)


def test_an_array_is_in_the_queue_element_by_element_until_each_has_ended(site):
    single, array = site.submit(), site.submit(tasks=2)
    assert len({base_id(key) for key in (*single, *array)}) == 2
    queue = site.scheduler.alive()
    assert {*single, *array} <= set(queue) and {job.restart for job in queue.values()} == {0}
    site.begin([*single, *array])
    assert {job.state for job in site.scheduler.alive().values()} == {"RUNNING"}
    site.end(array[0], 7)
    assert set(site.scheduler.alive()) == {*single, array[1]}
    assert set(living([array[1]], site.scheduler.alive)) == {array[1]}


def test_an_ended_job_has_a_state_an_end_and_last_words(site):
    failed, finished = site.submit(), site.submit()
    site.begin([*failed, *finished])
    assert site.is_unended(failed[0])
    assert {job.state for job in site.scheduler.ended(failed).values()} <= set(UNENDED)
    site.end(failed[0], 7)
    site.end(finished[0], 0)
    ended = site.scheduler.ended([*failed, *finished])
    assert (ended[failed[0]].state, ended[failed[0]].end) == ("FAILED", "exit code 7")
    assert ended[finished[0]].state == "COMPLETED"
    assert site.scheduler.end_of(failed[0], 0).state == "FAILED" and site.scheduler.end_of(failed[0], 1) is None
    line, log = site.scheduler.last_words(site.launch_of(failed[0]), failed[0])
    assert line == "the reason" and log.is_file()


def test_what_ended_jobs_used_is_on_record(site):
    (key,) = site.submit()
    site.begin([key])
    site.end(key, 0)
    (used,) = wait_for(lambda: site.scheduler.usage([key]))
    assert (used.key, used.state, used.allocated_cpus) == (key, "COMPLETED", 1)
    assert used.elapsed_seconds > 0 and used.cpu_seconds >= 0 and used.peak_memory_bytes != 0


def test_cancelling_an_array_ends_all_of_it_and_nothing_else(site):
    array, other = site.submit(tasks=2), site.submit()
    site.begin([*array, *other])
    assert site.scheduler.cancel([base_id(array[0])]) is None
    site.settle()
    wait_for(lambda: set(site.scheduler.alive()) == set(other))
    wait_for(lambda: {job.state for job in site.scheduler.ended(array).values()} == {"CANCELLED"})
    assert site.scheduler.cancel([]) is None


def test_a_process_knows_its_job(site, monkeypatch):
    assert site.scheduler.current_job() is None and site.scheduler.seconds_left() is None
    (key,) = site.submit()
    site.begin([key])
    found = site.job_of(key, monkeypatch)
    assert (found["key"], found["restart"], found["cluster"]) == (key, 0, site.scheduler.cluster())


def test_a_refused_job_says_why_and_is_not_queued(site):
    limit = site.scheduler.limits().max_array_size
    site.enforce_limits()
    with pytest.raises(JobRefused, match=r"\w+"):
        site.submit(tasks=limit + 1)
    assert site.scheduler.alive() == {}


def test_a_silent_scheduler_answers_nothing_and_raises_nothing(site):
    (key,) = site.submit()
    site.begin([key])
    site.silence()
    asked = site.scheduler
    answers = [
        asked.cluster(),
        asked.alive(),
        asked.ended([key]),
        asked.end_of(key, 0),
        asked.usage([key]),
        asked.limits(),
    ]
    assert answers == [None] * 6 and asked.cancel([key]) is not None
    with pytest.raises(UserError):
        site.submit()
