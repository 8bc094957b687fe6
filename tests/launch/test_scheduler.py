"""The seam to a scheduler: Slurm's client and a pool of processes keep one contract, and the pool trains a sweep."""

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pool
import pooled_sweeps
import pytest
from fake_slurm import FakeSlurm
from scheduler_contract import *  # noqa: F403 (its tests)
from scheduler_contract import Site, wait_for

from launch.monitor.control import cancel
from launch.monitor.efficiency import account
from launch.monitor.jobs import Jobs
from launch.monitor.status import collect
from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from launch.records.job_arrays import Submitted, launches
from launch.scheduler import base_id
from launch.slurm.client import Slurm
from launch.slurm.profile import Options
from tensloradist.cli import _application
from tensloradist.results.attempts import begin_attempt, read_attempt
from tensloradist.results.claims import claim
from tensloradist.results.jobs import current_job
from tensloradist.results.layout import RunFolder

STATES = {0: "COMPLETED"}
SACCT = r"""#!/bin/sh
echo "sacct $*" >> {folder}/calls
[ -e {folder}/sacct.fails ] && exit 1
case "$*" in *ExitCode*) file=ended;; *AllocTRES*) file=end_of;; *) file=usage;; esac
ids=$(echo "$*" | sed 's/.*-j \([^ ]*\).*/\1/; s/,/|/g')
grep -E "^($ids)[_.|]" {folder}/sacct.$file || true
"""


class PoolSite(Site):
    """The pool; its jobs run."""

    job = staticmethod(pool.contract_job)

    def __init__(self, folder):
        super().__init__(folder)
        self.pool = folder / "pool"
        self.pool.mkdir(parents=True)
        self.scheduler = pool.Pool(self.pool)
        self.server = subprocess.Popen([sys.executable, pool.__file__, str(self.pool), "3", "600"])
        wait_for(self.scheduler.cluster)

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

    job = staticmethod(pool.contract_job)  # which nothing runs
    options = Options().model_dump(mode="json")

    def __init__(self, folder, monkeypatch):
        super().__init__(folder)
        self.slurm, self.scheduler = FakeSlurm(folder / "bin").install(monkeypatch), Slurm()
        self.slurm.says("scontrol", "ClusterName = here\nMaxArraySize = 100\n")
        (self.slurm.folder / "sacct").write_text(SACCT.format(folder=self.slurm.folder))
        self.queue, self.ended = {}, []
        self.settle()

    def queued(self, keys):
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


JOB = {
    "SLURM_JOB_ID": "103",
    "SLURM_ARRAY_JOB_ID": "101",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_CLUSTER_NAME": "here",
    "SLURM_JOB_PARTITION": "low",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CPUS_PER_TASK": "4",
    "SLURM_MEM_PER_NODE": "2048",
    "SLURM_GPUS_ON_NODE": "1",
    "SLURM_JOB_START_TIME": "1000",
    "SLURM_JOB_END_TIME": "2800",
}


def test_claims_and_attempts_record_a_slurm_job_as_they_always_have(tmp_path, monkeypatch):
    """Also those of `tensloradist run`, which finds the job by what `launch` registers."""
    _application()
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    spec, run = load_sweep(str(tmp_path / "sweep.yaml")).runs[0].spec, RunFolder(tmp_path, "r")
    assert claim(run, job=current_job()) is not None
    begin_attempt(run, 1, spec, None, current_job())
    owner = json.loads((run.path / "claim.0001").read_text())
    assert list(owner)[-4:] == ["job", "restart", "heartbeat_seconds", "cluster"]
    assert (owner["job"], owner["restart"], owner["cluster"]) == ("101_2", 1, "here")
    assert json.loads((run.attempt(1) / "attempt.json").read_text())["slurm"] == {
        "job_id": "103",
        "array_job_id": "101",
        "array_task_id": "2",
        "restart_count": 1,
        "partition": "low",
        "node_list": "n[1-2]",
        "limits": {"cpus": "4", "memory": "2048", "gpus": "1", "minutes": "30"},
    }


SWEEP = """
name: pooled
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits, train_examples: 144}
methods: [lora, {tenslora: {grouping: [qkv_depth, att]}}]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 15, batch_size: 16, learning_rate: 1e-2}
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


@pytest.mark.evidence
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
    assert [job for _, record in launches("pooled", sweep.root) for job in record.job_ids] == ["1"]
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
