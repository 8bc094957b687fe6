"""How often workers ask squeue, what they believe of its answers, and that they read no result twice."""

import json
import time
from types import SimpleNamespace

import pytest
from fake_slurm import FakeSlurm
from synthetic import planned_run, spec_of

from launch.monitor.status import collect
from launch.records.policy import Growth
from launch.records.submission import Submission
from launch.scheduler import Job
from launch.slurm.client import Slurm
from launch.worker.liveness import ASK_SECONDS, LAUNCH_SECONDS, JobsAlive
from launch.worker.run_order import rotated
from launch.worker.worker import EarlyEnd, Worker
from tensloradist.files import write_once
from tensloradist.results.claims import Owner, claim
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import manifest_digest
from tensloradist.results.publish import write_failure
from tensloradist.results.schema import Condition, Failure, Manifest


class SlurmOf(Slurm):
    """Slurm, as a worker in a job of it sees it."""

    def __init__(self, key, restart):
        self.job = JobRef(key=key, restart=restart, cluster="here", id=key)

    def current_job(self):
        return self.job


def owner(job, restart=0, cluster="here"):
    return Owner("n2", "boot", 1, "1", "ns", job=job, restart=restart, cluster=cluster)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "bin").install(monkeypatch)


@pytest.fixture
def clock():
    return SimpleNamespace(now=1000.0)


def alive(clock, workers=1):
    return JobsAlive(SlurmOf("7_0", 1), workers, lambda: clock.now)


def test_one_answer_is_believed_about_every_job(slurm, clock):
    slurm.queue(("7_0", "RUNNING", 1), *((f"8_{task}", "RUNNING", 0) for task in range(200)))
    knows = alive(clock)
    assert [knows(owner(f"8_{task}")) for task in range(200)] == [True] * 200
    assert slurm.calls()["squeue"] == 1
    clock.now += 1.3 * ASK_SECONDS
    assert knows(owner("8_3")) and slurm.calls()["squeue"] == 2


def test_a_job_is_gone_only_by_an_answer_that_is_newer_than_the_question(slurm, clock):
    slurm.queue(("7_0", "RUNNING", 1), ("9", "PENDING", 0))
    knows = alive(clock)
    assert knows(owner("8")) is False, "absent from a fresh answer"
    clock.now += 1
    assert knows(owner("9")) is None, "it waited then, and may have begun since"
    assert knows(owner("10")) is None, "it may have been submitted since"
    clock.now += 1.3 * ASK_SECONDS
    assert [knows(owner(job)) for job in ("9", "10")] == [False, False]
    assert slurm.calls()["squeue"] == 2


def test_an_answer_without_the_askers_own_job_is_none(slurm, clock):
    slurm.queue(("8", "RUNNING", 0))
    knows = alive(clock)
    assert knows(owner("8")) is None and knows(owner("9")) is None
    slurm.queue(("7_0", "RUNNING", 1), ("8", "RUNNING", 0))
    clock.now += 1.3 * ASK_SECONDS
    assert knows(owner("8")) is True and knows(owner("9")) is False


def test_silence_is_no_answer_and_is_not_asked_for_again_at_once(slurm, clock):
    slurm.fails("squeue")
    knows = alive(clock)
    assert [knows(owner(job)) for job in ("8", "9", "10")] == [None] * 3
    assert slurm.calls()["squeue"] == 1


def test_squeue_knows_nothing_of_another_clusters_jobs(slurm, clock):
    slurm.queue(("7_0", "RUNNING", 1))
    knows = alive(clock)
    assert knows(owner("8", cluster="elsewhere")) is None
    assert knows(owner("7_0", cluster="elsewhere")) is None
    assert knows(owner("8", cluster=None)) is None, "a claim from before the cluster was recorded"
    assert slurm.calls()["squeue"] == 0


def test_of_its_own_job_a_worker_knows_without_asking(slurm, clock):
    knows = alive(clock)
    assert knows(owner("7_0", restart=0)) is False, "Slurm has begun the job again since"
    assert knows(owner("7_0", restart=1)) is True
    assert slurm.calls()["squeue"] == 0


def test_a_whole_launch_asks_about_once_in_two_seconds(monkeypatch, clock):
    asked = []

    def queue():
        asked.append(clock.now)
        return {"7_0": Job("7_0", "RUNNING", 1)}

    monkeypatch.setattr("launch.slurm.commands.queue", queue)
    workers = [alive(clock, workers=200) for _ in range(200)]
    for _ in range(1200):
        for number, knows in enumerate(workers):
            knows(owner(f"8_{number}"))
        clock.now += 1
    assert 1200 / len(asked) > 0.8 * LAUNCH_SECONDS
    assert max(asked.count(second) for second in asked) < 10, "they do not ask all at once"


def manifest(root, cells=4, seeds=3):
    def run(cell, seed):
        return planned_run(f"{cell}-{seed}", spec_of(seed), row=f"row {cell}")

    runs = tuple(run(cell, seed) for seed in range(seeds) for cell in range(cells))
    condition = Condition(name="isorank r=2", kind="isorank", rank=2)
    text = Manifest(name="s", sweep_sha256="", conditions=(condition,), runs=runs).model_dump_json()
    path = root / "sweeps" / "s" / f"{manifest_digest(text)}.json"
    write_once(path, text)
    return path, runs


def test_workers_begin_at_different_runs_and_no_seed_comes_before_an_earlier_one(tmp_path):
    _, runs = manifest(tmp_path)
    orders = [rotated(runs, f"7_{task}.0.0") for task in range(20)]
    assert len({order[0].run_id for order in orders}) == 4
    for order in orders:
        assert [run.spec.seed for run in order] == [0] * 4 + [1] * 4 + [2] * 4
        assert {run.run_id for run in order} == {run.run_id for run in runs}


def test_a_pass_over_runs_of_others_asks_once_and_reads_each_result_once(tmp_path, monkeypatch, slurm):
    root = tmp_path / "results"
    path, runs = manifest(root, cells=50, seeds=4)
    slurm.queue(("7_0", "RUNNING", 0), *((f"8_{task}", "RUNNING", 0) for task in range(200)))
    for number, run in enumerate(runs):
        folder = RunFolder(root, run.run_id)
        if number % 2:
            folder.path.mkdir(parents=True)
            folder.result.write_text("{}")
            continue
        claim(folder)
        record = json.loads((folder.path / "claim.0001").read_text())
        (folder.path / "claim.0001").unlink()
        theirs = {"host": "elsewhere", "job": f"8_{number}", "cluster": "here"}
        (folder.path / "claim.0001").write_text(json.dumps({**record, **theirs}))
    read = []
    monkeypatch.setattr("launch.worker.worker.recover_broken", lambda folder: read.append(folder.run_id))
    baseline = {run.run_id: 0 for run in runs}
    submission = Submission(str(path), str(root), 1, baseline=baseline, launch_workers=200)
    write_once(root / "launch" / "submission-0.json", submission.to_json())
    knows = JobsAlive(SlurmOf("7_0", 0))
    worker = Worker(root / "launch" / "submission-0.json", "7_0.0.0", job_alive=knows)
    looks = []

    def a_few(seconds):
        looks.append(seconds)
        worker.stop_reason = "interrupted" if len(looks) >= 3 else None

    clock = SimpleNamespace(sleep=a_few, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr("launch.worker.worker.time", clock)
    worker.drain()
    assert len(looks) == 3 and slurm.calls()["squeue"] == 1
    assert sorted(read) == sorted(run.run_id for run in runs[1::2])


def test_a_run_whose_start_alone_takes_a_jobs_time_gets_a_longer_job(tmp_path, monkeypatch, slurm):
    """Its workers were stopped before they could decide anything: the next one does, and tries no more."""
    root = tmp_path / "results"
    path, (run,) = manifest(root, cells=1, seeds=1)
    folder = RunFolder(root, run.run_id)
    for number in (1, 2):
        with claim(folder):
            failure = Failure(run_id=run.run_id, attempt=number, cause="time_limit", message="stopped", kept_step=0)
            write_failure(folder.attempt(number), failure)
    submission = Submission(str(path), str(root), 1, baseline={run.run_id: 0}, growth=Growth())
    write_once(root / "launch" / "submission-0.json", submission.to_json())
    worker = Worker(root / "launch" / "submission-0.json", "7_0.0.0", job_alive=lambda owner: None)
    monkeypatch.setattr(worker.children, "child", None)  # to train would be to fail
    assert not worker.drain()
    assert json.loads((folder.attempt(2) / "decision.json").read_text())["action"] == "retry_larger"
    assert worker.needing_more() == {Growth(time=2): [run.run_id]}


def worker_of(root, path, run, name="7_0.0.0"):
    submission = Submission(str(path), str(root), 1, baseline={run.run_id: 0}, growth=Growth())
    write_once(root / "sweeps" / "s" / "launches" / "1" / "submission-0.json", submission.to_json())
    return Worker(root / "sweeps" / "s" / "launches" / "1" / "submission-0.json", name, job_alive=lambda owner: None)


@pytest.mark.parametrize("name", ["result.json", "claim.0001", "attempts/0001/attempt.json", "attempts/0001/end.json"])
def test_a_worker_leaves_alone_what_a_newer_version_has_made(tmp_path, monkeypatch, slurm, name):
    path, (run,) = manifest(tmp_path, cells=1, seeds=1)
    newer = RunFolder(tmp_path, run.run_id).path / name
    write_once(newer, '{"schema_version": 2}')
    worker = worker_of(tmp_path, path, run)
    monkeypatch.setattr(worker.children, "child", None)  # to train would be to fail
    assert not worker.drain() and newer.read_text() == '{"schema_version": 2}'


class DeadChild:
    """A training process that ends before it can begin a run, and says why on standard error."""

    pid, has_ended = 0, True

    def __init__(self, log, name):
        log.write_text(f"Traceback of {name}\nModuleNotFoundError: No module named 'site_metrics'\n")

    def request(self, **fields):
        pass

    def next_event(self, seconds):
        return None

    def wait(self):
        return 1

    def terminate(self):
        pass

    def kill_at(self, deadline):
        pass


def test_status_says_once_what_ends_all_workers_and_names_the_error(tmp_path, monkeypatch, slurm):
    path, (run,) = manifest(tmp_path, cells=1, seeds=1)
    for task in range(3):
        worker = worker_of(tmp_path, path, run, f"7_{task}.0.0")
        monkeypatch.setattr(worker.children, "child", lambda worker=worker: DeadChild(worker.log, worker.name))
        with pytest.raises(EarlyEnd):
            worker.drain()
    write_once(tmp_path / "sweeps" / "s" / "latest", path.stem)
    (warning,) = collect("s", tmp_path).warnings
    assert warning.startswith("3 workers ended by an error of their own")
    assert "could begin a run: ModuleNotFoundError: No module named 'site_metrics'; see " in warning
