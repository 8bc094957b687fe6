"""The seam to a scheduler: Slurm's client and a pool of processes keep one contract, and the pool trains a sweep."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pool
import pooled_sweeps
import pytest
from fake_slurm import FakeSlurm

from launch.monitor.control import cancel
from launch.monitor.efficiency import account
from launch.monitor.jobs import Jobs
from launch.monitor.status import collect
from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from launch.records.job_arrays import Submitted, launches
from launch.records.submission import Submission
from launch.scheduler import JobRefused, JobRequest, base_id, living
from launch.slurm.client import Slurm
from launch.slurm.profile import Options
from tensloradist.files import write_once
from tensloradist.results.attempts import read_attempt

STATES = {0: "COMPLETED"}
SACCT = """#!/bin/sh
echo "sacct $*" >> {folder}/calls
[ -e {folder}/sacct.fails ] && exit 1
case "$*" in *ExitCode*) file=ended;; *AllocTRES*) file=end_of;; *) file=usage;; esac
ids=$(echo "$*" | sed 's/.*-j \([^ ]*\).*/\1/; s/,/|/g')
grep -E "^($ids)[_.|]" {folder}/sacct.$file || true
"""


def wait_for(condition, seconds=120):
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


class Site:
    """A scheduler under test, and what makes its jobs begin and end."""

    def __init__(self, folder):
        self.folder, self.submitted = folder, 0

    def submit(self, tasks=1):
        """Queue a job; returns its keys."""
        self.submitted += 1
        folder = self.folder / "sweeps" / "s" / "launches" / str(self.submitted)
        path = folder / "submission-0.json"
        options = Options().model_dump(mode="json")
        write_once(path, Submission("m", "r", 1, options=options, tasks=tasks).to_json())
        request = JobRequest(
            name="s", run=pool.wait_for_code, submission=path, tasks=tasks, parallel=tasks, logs=folder / "submitit-0"
        )
        job_id = self.scheduler.submit(request)
        keys = [job_id] if tasks == 1 else [f"{job_id}_{task}" for task in range(tasks)]
        self.queued(folder, keys)
        return keys

    def launch_of(self, key):
        """The launch folder of a job."""
        return next(folder for folder, keys in self.launches if key in keys)


class PoolSite(Site):
    """The pool; its jobs run."""

    def __init__(self, folder):
        super().__init__(folder)
        self.pool, self.launches = folder / "pool", []
        self.pool.mkdir(parents=True)
        self.scheduler = pool.Pool(self.pool)
        self.server = subprocess.Popen([sys.executable, pool.__file__, str(self.pool), "3", "600"])
        wait_for(self.scheduler.cluster)

    def queued(self, folder, keys):
        self.launches.append((folder, keys))

    def begin(self, keys):
        wait_for(lambda: all(self.scheduler.alive()[key].state == "RUNNING" for key in keys))

    def end(self, key, code):
        write_once(self.launch_of(key) / f"end-{key}", str(code))
        wait_for(lambda: key not in self.scheduler.alive())

    def job_of(self, key, monkeypatch):
        return json.loads(wait_for(lambda: (path := self.launch_of(key) / f"job-{key}").exists() and path.read_text()))

    def settle(self):
        """Nothing: the pool does by itself what it is asked."""

    def enforce_limits(self):
        """Nothing: the pool always does."""

    def silence(self):
        self.server.kill()
        self.server.wait()

    def close(self):
        for key, found in (self.scheduler.alive() or {}).items():
            self.scheduler.cancel([key])
            if found.state == "RUNNING":
                wait_for(lambda key=key: key not in self.scheduler.alive())
        self.silence()


class SlurmSite(Site):
    """Slurm's client, on stand-ins for Slurm's commands, which are told what the controller would do."""

    def __init__(self, folder, monkeypatch):
        super().__init__(folder)
        self.slurm, self.scheduler, self.launches = FakeSlurm(folder / "bin").install(monkeypatch), Slurm(), []
        self.slurm.says("scontrol", "ClusterName = here\nMaxArraySize = 100\n")
        (self.slurm.folder / "sacct").write_text(SACCT.format(folder=self.slurm.folder))
        self.queue, self.ended = {}, []
        self.settle()

    def queued(self, folder, keys):
        self.launches.append((folder, keys))
        self.queue |= dict.fromkeys(keys, "PENDING")
        self.settle()

    def begin(self, keys):
        self.queue |= dict.fromkeys(keys, "RUNNING")
        self.settle()

    def end(self, key, code, state=None):
        del self.queue[key]
        self.ended.append((key, state or STATES.get(code, "FAILED"), code))
        log = self.launch_of(key) / "submitit-0" / f"{key}_0_log.err"
        log.parent.mkdir(exist_ok=True)
        log.write_text("the reason\nsrun: error: n1: task 0: Exited with exit code 7\n")
        self.settle()

    def job_of(self, key, monkeypatch):
        for name, value in {"SLURM_JOB_ID": key, "SLURM_CLUSTER_NAME": "here", "SLURM_RESTART_COUNT": "0"}.items():
            monkeypatch.setenv(name, value)
        return vars(self.scheduler.current_job())

    def silence(self):
        for command in ("squeue", "sacct", "scontrol", "scancel", "sinfo", "sbatch"):
            self.slurm.fails(command)

    def close(self):
        pass

    def enforce_limits(self):
        (self.slurm.folder / "sbatch.accepts").write_text("0")

    def settle(self):
        """Let squeue and sacct answer for the jobs as they are; scancel ends them at once."""
        asked = " ".join(self.slurm.asked("scancel")).split()
        for key in [key for key in self.queue if key in asked or base_id(key) in asked]:
            del self.queue[key]
            self.ended.append((key, "CANCELLED", 0))
        self.slurm.queue(*((key, state, 0) for key, state in self.queue.items()))
        files = {
            "ended": "".join(f"{key}|{state}|{code}:0\n" for key, state, code in self.ended),
            "end_of": "".join(f"{key}|{state}|mem=1G|\n" for key, state, _ in self.ended),
            "usage": "".join(
                f"{key}|{state}|9|00:08|1|\n{key}.0|{state}|9|00:08|1|5K\n" for key, state, _ in self.ended
            ),
        }
        for name, text in files.items():
            self.slurm.says("sacct", text)
            (self.slurm.folder / "sacct.says").rename(self.slurm.folder / f"sacct.{name}")


@pytest.fixture(params=["slurm", "pool"])
def site(request, tmp_path, monkeypatch):
    made = SlurmSite(tmp_path, monkeypatch) if request.param == "slurm" else PoolSite(tmp_path)
    yield made
    made.close()


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
    assert site.scheduler.end_of(failed[0], 0) is None and site.scheduler.ended(failed) == {}
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
    (used,) = site.scheduler.usage([key])
    assert (used.key, used.state, used.allocated_cpus) == (key, "COMPLETED", 1)
    assert used.elapsed_seconds > 0 and used.cpu_seconds >= 0 and used.peak_memory_bytes > 0


def test_cancelling_an_array_ends_all_of_it_and_nothing_else(site):
    array, other = site.submit(tasks=2), site.submit()
    site.begin([*array, *other])
    assert site.scheduler.cancel([base_id(array[0])]) is None
    site.settle()
    wait_for(lambda: set(site.scheduler.alive()) == set(other))
    assert {job.state for job in site.scheduler.ended(array).values()} == {"CANCELLED"}
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
    with pytest.raises(JobRefused, match="limit|at most"):
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
    with pytest.raises(JobRefused):
        site.submit()


SWEEP = """
name: pooled
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits, train_examples: 144}
methods: [lora, {tenslora: {grouping: [qkv_depth, att]}}]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 40, batch_size: 16, learning_rate: 1e-2}
compute: {device: cpu, threads: 1, checkpoint_steps: 5, checkpoint_seconds: null}
"""


class Pooled:
    """A sweep of three runs that is launched on a pool with two slots."""

    def __init__(self, folder):
        self.site, self.root, self.file = PoolSite(folder), folder / "results", folder / "sweep.yaml"
        self.file.write_text(SWEEP)
        self.jobs = Jobs("pooled", self.root, self.site.scheduler)

    def launch(self, tasks=2):
        return pooled_sweeps.launch(check(load_sweep(str(self.file)), self.root), self.root, self.site.scheduler, tasks)

    def status(self):
        return collect("pooled", self.root, self.jobs)

    def records(self, name):
        return [json.loads(path.read_text()) for path in sorted(self.root.glob(f"runs/*/attempts/*/{name}"))]

    def wait_finished(self):
        wait_for(lambda: len(list(self.root.glob("runs/*/result.json"))) == 3, 240)
        wait_for(lambda: not self.site.scheduler.alive())


@pytest.fixture
def pooled(tmp_path):
    made = []

    def make():
        made.append(Pooled(tmp_path))
        return made[0]

    yield make
    made[0].site.close()


def has_checkpoint(sweep, job):
    """Whether a job is in the middle of a run."""
    attempts = (path.parents[2] for path in sweep.root.glob("runs/*/attempts/*/checkpoints/step-*/COMPLETE"))
    return any(read_attempt(attempt).slurm.job_id == job for attempt in attempts)


def test_a_sweep_is_trained_and_watched_although_a_job_is_killed(pooled):
    """What the scheduler says of the killed job is recorded, and the other job takes over its run."""
    sweep = pooled()
    sweep.launch()
    wait_for(lambda: sweep.status().jobs.counts == {"running": 2} and has_checkpoint(sweep, "1_0"))
    worker = json.loads((sweep.site.pool / "jobs" / "1_0.json").read_text())[-1]["pid"]
    (child,) = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    os.kill(worker, signal.SIGSTOP)  # so that it does not see how its child ends
    for process in (int(child), worker):
        os.kill(process, signal.SIGKILL)
    sweep.wait_finished()
    status = sweep.status()
    assert status.counts() == {"finished": 3} and not status.is_open
    assert status.jobs.counts == {"completed": 1, "failed": 1}
    (failure,) = sweep.records("failure.json")
    assert failure["cause"] == "killed" and "job 1_0; The pool says FAILED" in failure["message"]
    claims = [json.loads(path.read_text()) for path in sweep.root.glob("runs/*/claim.*")]
    attempts = sweep.records("attempt.json")
    cluster = sweep.site.scheduler.cluster()
    assert {(claim["job"], claim["cluster"]) for claim in claims} == {("1_0", cluster), ("1_1", cluster)}
    assert {attempt["slurm"]["job_id"] for attempt in attempts} == {"1_0", "1_1"}
    (found,), spent = account("pooled", sweep.root, sweep.site.scheduler)
    assert found.tasks == 2 and found.elapsed_seconds > 0 and spent.runs == 3


def test_a_cancelled_sweep_goes_on_from_its_checkpoints_on_another_scheduler(pooled):
    sweep = pooled()
    sweep.launch()
    wait_for(lambda: has_checkpoint(sweep, "1_0"))
    assert cancel("pooled", sweep.root, sweep.site.scheduler).jobs == ["1_0", "1_1"]
    wait_for(lambda: not sweep.site.scheduler.alive())
    assert sweep.status().jobs.counts == {"cancelled": 2}
    assert {record["cause"] for record in sweep.records("failure.json")} <= {"cancelled", "interrupted"}
    sweep.launch()
    sweep.wait_finished()
    assert any(record["resumed_from"] for record in sweep.records("attempt.json"))


def test_jobs_that_a_killed_launch_has_not_recorded_are_adopted_on_another_scheduler(pooled, monkeypatch):
    monkeypatch.setattr(Submitted, "with_array", lambda done, folder, array: done)
    monkeypatch.setattr(Submitted, "write", lambda done, folder: None)
    sweep = pooled()
    sweep.launch()
    monkeypatch.undo()
    assert not list(launches("pooled", sweep.root))
    sweep.status()
    assert [array["job_id"] for _, record in launches("pooled", sweep.root) for array in record["arrays"]] == ["1"]
    assert cancel("pooled", sweep.root, sweep.site.scheduler).jobs == ["1_0", "1_1"]


def test_the_second_scheduler_takes_nothing_from_slurm():
    names = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for module in (pool, pooled_sweeps)
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert "launch.scheduler" in names and not [name for name in names if "slurm" in name]
