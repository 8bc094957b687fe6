"""Submissions that are cut short, and what is known of their jobs; sacct is asked once for each job that has ended."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_slurm import FakeSlurm

from launch.monitor.control import cancel
from launch.monitor.jobs import MOST_ASKED, Jobs
from launch.records.job_arrays import launches
from launch.slurm.arrays import Array
from launch.slurm.client import Slurm
from launch.slurm.profile import Options
from launch.slurm.submit import submit
from launch.slurm.task import run_task
from tensloradist.errors import UserError
from tensloradist.files import write_once

TWO = [Array("default", 1, None, tasks, ("r",), None) for tasks in (3, 1)]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "bin").install(monkeypatch)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def submit_two(root):
    return submit("s", root / "sweeps" / "s" / "m.json", root, "site", {"default": Options()}, TWO, run_task=run_task)


def known(root):
    return [job for _, said in launches("s", root) for job in said.job_ids]


def test_every_array_is_on_record_as_soon_as_it_is_accepted(slurm, root):
    done, folder = submit_two(root)
    assert done.job_ids == known(root) == ["101", "102"] and done.cluster == "here"
    (folder / "slurm.json").unlink()
    assert known(root) == ["101", "102"], "the records of the arrays tell as much as the summary"
    slurm.queue(("101_0", "RUNNING", 0), ("101_1", "PENDING", 0), ("102", "PENDING", 0))
    assert sorted(cancel("s", root, Slurm()).jobs) == ["101_0", "101_1", "102"]
    assert slurm.asked("scancel") == ["101 102"] and (folder / "stop").exists()


def test_a_refused_array_takes_those_before_it_back(slurm, root):
    (slurm.folder / "sbatch.accepts").write_text("1")
    with pytest.raises(UserError, match=r"refused the job \(Job violates a limit\); jobs 101, .* were cancelled"):
        submit_two(root)
    assert slurm.asked("scancel") == ["101"]
    (slurm.folder / "sbatch.accepts").write_text("0")
    (slurm.folder / "accepted").unlink()
    with pytest.raises(UserError, match=r"\(Job violates a limit\); nothing was submitted"):
        submit_two(root)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_submission_cut_short_leaves_no_job_that_nobody_knows_of(slurm, root, monkeypatch, capfd, error):
    import submitit

    moved = submitit.core.utils.JobPaths.move_temporary_file

    def move(self, path, name, **more):
        if str(self.job_id).startswith("102"):
            raise error
        return moved(self, path, name, **more)

    monkeypatch.setattr(submitit.core.utils.JobPaths, "move_temporary_file", move)
    with pytest.raises(type(error)):
        submit_two(root)
    assert slurm.asked("scancel") == ["101 102"], "the second had been accepted, too: its script tells"
    assert "jobs 101, 102, which had been accepted, were cancelled" in capfd.readouterr().err
    assert known(root) == ["101"], "what it was stays on record"


def test_a_record_that_cannot_be_written_is_of_a_job_that_is_taken_back(slurm, root, monkeypatch, capfd):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("launch.records.job_arrays.write_once", full)
    slurm.fails("squeue")
    with pytest.raises(OSError, match="No space left"):
        submit_two(root)
    said = capfd.readouterr().err
    assert slurm.asked("scancel") == ["101"] and "jobs 101, " in said and "squeue does not tell" in said


SWEEP = """
name: s
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora]
conditions: [{isorank: [2]}]
seeds: 2
"""


@pytest.mark.parametrize("whom", ["the command alone", "sbatch, too"])
def test_an_interruption_takes_a_submission_back(slurm, root, tmp_path, whom):
    """SIGHUP as kill sends it; Ctrl-C on a terminal reaches sbatch, too, which is then not waited for."""
    file, profile = tmp_path / "sweep.yaml", tmp_path / "site.yaml"
    file.write_text(SWEEP)
    profile.write_text("max_array_size: 1\n")  # hence two arrays
    waits = slurm.folder / "sbatch.waits"
    waits.touch()
    command = [sys.executable, "-m", "tensloradist.cli", "launch", file, "--profile", profile, "--results", root]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while slurm.calls()["sbatch"] < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.1)
    if whom == "the command alone":
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        waits.unlink()
    else:
        os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=240)
    jobs = ["101", "102"] if whom == "the command alone" else ["101"]
    assert process.returncode == 130 and f"jobs {', '.join(jobs)}, which had been accepted, were cancelled" in out, out
    assert slurm.asked("scancel") == [" ".join(jobs)] and known(root) == jobs


def test_what_cannot_be_cancelled_is_named(slurm, root, capfd):
    (slurm.folder / "sbatch.accepts").write_text("1")
    slurm.fails("scancel", "scancel: error: Access denied\n")
    with pytest.raises(UserError, match=r"jobs 101 .* not be cancelled \(.*Access denied\); .*: scancel 101"):
        submit_two(root)
    assert known(root) == ["101"]


@pytest.mark.parametrize("known_by", ["its comment", "its script", "its log"])
def test_jobs_of_a_launch_that_was_killed_before_their_record_are_adopted(slurm, root, monkeypatch, known_by):
    """As kill -9 between sbatch's answer and the record leaves it: the job runs, and no file has its id."""
    monkeypatch.setattr("launch.slurm.submit.Submitted.with_array", lambda done, folder, array: done)
    monkeypatch.setattr("launch.slurm.submit.Submitted.write", lambda done, folder: None)
    _, folder = submit_two(root)
    monkeypatch.undo()
    slurm.install(monkeypatch)
    assert known(root) == []
    lines = (slurm.folder / "accepted").read_text()
    assert lines.count(f"tensloradist:{folder.name}/submitit-") == 2
    if known_by == "its comment":
        (slurm.folder / "accepted").write_text(lines.replace(str(folder), "/var/spool/slurm"))
    elif known_by == "its script":
        (slurm.folder / "accepted").write_text(lines.replace("tensloradist:", "replaced by the site: "))
    else:
        (slurm.folder / "accepted").unlink()
        for name in ("submitit-0/101_2_0_log.err", "submitit-1/102_0_log.err"):
            (folder / name).touch()
    slurm.queue(*((key, "RUNNING", 0) for key in ("101_0", "101_1", "101_2", "102")))
    assert Jobs("s", root, Slurm()).look().counts == {"running": 4}
    assert known(root) == ["101", "102"], "they are on record now"
    assert len(cancel("s", root, Slurm()).jobs) == 4 and slurm.asked("scancel") == ["101 102"]


@pytest.mark.parametrize("asker", ["another cluster", "a colleague", "an older version's launch"])
def test_only_its_own_user_on_its_own_cluster_finds_that_a_submission_has_no_job(slurm, root, monkeypatch, asker):
    """Others do not see the job of a launch that was killed before its record: that says nothing of it."""
    _, folder = submit_two(root)
    for name in ("slurm.json", "accepted-0.json", "accepted-1.json"):
        (folder / name).unlink()
    for path in folder.glob("submission-*.json"):
        if asker == "an older version's launch":
            old = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("cluster", "user")}
            path.unlink()
            path.write_text(json.dumps(old))
        os.utime(path, (1, 1))
    jobs = (slurm.folder / "accepted").read_text()
    (slurm.folder / "accepted").unlink()
    slurm.queue()
    slurm.says("scontrol", f"ClusterName = {'there' if asker == 'another cluster' else 'here'}\n")
    with monkeypatch.context() as patched:
        if asker == "a colleague":
            patched.setattr("getpass.getuser", lambda: "somebody")
        assert Jobs("s", root, Slurm()).look() is None and not (folder / "returned").exists()
    slurm.says("scontrol", "ClusterName = here\n")
    if asker != "an older version's launch":
        Jobs("s", root, Slurm()).look()
        assert (folder / "returned").exists(), "its own user sees that there is none"
        (folder / "returned").unlink()
    (slurm.folder / "accepted").write_text(jobs)
    slurm.queue(("101_0", "RUNNING", 0), ("102", "PENDING", 0))
    assert len(cancel("s", root, Slurm()).jobs) == 2 and slurm.asked("scancel") == ["101 102"]


@pytest.mark.parametrize("known", [True, False])
def test_jobs_that_another_cluster_knows_by_their_logs_stay_their_own_clusters(slurm, root, known):
    _, folder = submit_two(root)
    for name in ("slurm.json", "accepted-0.json", "accepted-1.json"):
        (folder / name).unlink()
    for path in () if known else folder.glob("submission-*.json"):  # as earlier versions wrote them
        old = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("cluster", "user")}
        path.unlink()
        path.write_text(json.dumps(old))
    jobs = (slurm.folder / "accepted").read_text()
    (slurm.folder / "accepted").unlink()
    for name in ("submitit-0/101_2_0_log.err", "submitit-1/102_0_log.err"):
        (folder / name).touch()
    slurm.says("scontrol", "ClusterName = there\n")
    slurm.queue()
    Jobs("s", root, Slurm()).look()
    assert [record.cluster for _, record in launches("s", root)] == ["here" if known else None]
    slurm.says("scontrol", "ClusterName = here\n")
    (slurm.folder / "accepted").write_text(jobs)
    slurm.queue(("101_0", "RUNNING", 0), ("102", "PENDING", 0))
    assert len(cancel("s", root, Slurm()).jobs) == 2 and slurm.asked("scancel") == ["101 102"]


def test_nobody_asks_for_ever_about_a_submission_that_came_to_nothing(slurm, root, monkeypatch):
    (slurm.folder / "sbatch.accepts").write_text("0")
    with pytest.raises(UserError):
        submit_two(root)
    before = len(slurm.asked("squeue"))
    assert Jobs("s", root, Slurm()).look() is None and len(slurm.asked("squeue")) == before


@pytest.mark.parametrize("recorded", [True, False])
def test_jobs_are_cancelled_where_nothing_can_be_written(slurm, root, monkeypatch, recorded):
    _, folder = submit_two(root)
    if not recorded:
        for name in ("slurm.json", "accepted-0.json", "accepted-1.json"):
            (folder / name).unlink()

    def read_only(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("tensloradist.files.write_synced", read_only)
    slurm.queue(("101_0", "RUNNING", 0), ("102", "PENDING", 0))
    done = cancel("s", root, Slurm())
    assert done.jobs == ["101_0", "102"] and slurm.asked("scancel") == ["101 102"]
    assert done.unwritten == [f"{folder / 'stop'} (Read-only file system)"]
    slurm.fails("scancel", "scancel: error: Access denied\n")
    with pytest.raises(UserError, match=r"refused to cancel: .*denied; and workers do not stop .*Read-only"):
        cancel("s", root, Slurm())


def test_jobs_that_end_before_a_worker_can_write_are_explained_by_kind(slurm, root):
    _, folder = submit_two(root)
    slurm.queue()
    slurm.says("sacct", "101_0|FAILED|127:0\n101_1|FAILED|127:0\n101_2|COMPLETED|0:0\n102|FAILED|0:53\n")
    for task in (0, 1):
        log = folder / "submitit-0" / f"101_{task}_0_log.err"
        log.write_text(
            f"Loading modules\n/scratch/101_{task}/run: line 9: python3.12: No such file or directory\n"
            f"srun: error: n1: task 0: Exited with exit code 127\nsrun: launch/slurm: _step_signal: 101.{task}\n\n"
        )
    write_once(folder / "worker-101_2.0.0.json", "{}")
    first, second = Jobs("s", root, Slurm()).look().early_ends
    assert first.startswith("2 jobs ended before a worker could begin (FAILED, exit code 127): ")
    assert "python3.12: No such file or directory; see " in first and "submitit-0/101_0_0_log.err" in first
    assert second.startswith(
        "1 job ended before a worker could begin (FAILED, the node could not open the job's files), without output: "
    )
    assert "102_0_log.err is absent; is the results folder full, read-only" in second


def test_a_job_that_was_cancelled_before_it_began_is_no_early_end(slurm, root):
    submit_two(root)
    slurm.queue()
    slurm.says("sacct", "101_0|CANCELLED by 0|0:0\n")
    said = Jobs("s", root, Slurm()).look()
    assert said.early_ends == [] and said.counts == {"cancelled": 4} and not said.are_left


def ended(*keys, state="COMPLETED"):
    return "".join(f"{key}|{state}\n" for key in keys)


def test_sacct_is_asked_once_for_a_job_that_has_ended(slurm, root):
    submit_two(root)
    jobs = Jobs("s", root, Slurm())
    slurm.queue(("101_0", "RUNNING", 0), ("101_1", "RUNNING", 0), ("101_2", "RUNNING", 0), ("102", "RUNNING", 0))
    assert jobs.look().counts == {"running": 4} and slurm.calls()["sacct"] == 0
    slurm.queue(("101_0", "RUNNING", 0), ("101_1", "RUNNING", 0), ("101_2", "RUNNING", 0))
    slurm.says("sacct", ended("102"))
    for _ in range(5):
        assert jobs.look().counts == {"running": 3, "completed": 1}
    assert [words.split()[4] for words in slurm.asked("sacct")] == ["102"]
    slurm.queue()
    slurm.says("sacct", ended("101_0", "101_1", "101_2"))
    for _ in range(5):
        assert jobs.look().counts == {"completed": 4}
    assert [words.split()[4] for words in slurm.asked("sacct")] == ["102", "101"]
    assert slurm.calls()["squeue"] == 11


def test_a_record_that_lags_is_asked_for_again_and_one_that_never_comes_not_for_ever(slurm, root):
    submit_two(root)
    jobs = Jobs("s", root, Slurm())
    slurm.queue()
    slurm.says("sacct", ended("101_0", "101_1") + ended("102", state="RUNNING"))
    assert jobs.look().counts == {"completed": 2, "running": 1, "cancelled": 1}
    slurm.says("sacct", ended("102", state="TIMEOUT"))
    for _ in range(2 * MOST_ASKED):
        found = jobs.look()
    assert found.counts == {"completed": 2, "timeout": 1, "cancelled": 1} and found.cancelled == ["101_2"]
    assert slurm.calls()["sacct"] == MOST_ASKED
    slurm.queue(("102", "RUNNING", 1))
    assert jobs.look().counts == {"completed": 2, "running": 1, "cancelled": 1}, "it was put back into the queue"


def test_another_clusters_jobs_are_neither_asked_about_nor_cancelled_here(slurm, root):
    _, folder = submit_two(root)
    said = json.loads((folder / "slurm.json").read_text())
    (folder / "slurm.json").unlink()
    write_once(folder / "slurm.json", json.dumps({**said, "cluster": "there"}))
    slurm.queue(("101_0", "RUNNING", 0), ("102", "RUNNING", 0))  # of somebody else: the ids mean others here
    jobs = Jobs("s", root, Slurm())
    assert jobs.look().counts == {} and jobs.elsewhere() == {"there": ["101", "102"]}
    done = cancel("s", root, Slurm())
    assert (done.jobs, done.elsewhere) == ([], {"there": ["101", "102"]}) and (folder / "stop").exists()
    assert slurm.calls()["scancel"] == slurm.calls()["sacct"] == 0
