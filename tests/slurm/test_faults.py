"""Faults, really injected into real jobs: each ends with every run finished once, and nothing lost."""

import getpass
import itertools
import json
import os
import random
import signal
import subprocess
import time

import pytest
from slurm_sweeps import (
    Sweep,
    assert_same_bits,
    child_of_run,
    job_field,
    reference,
    scontrol,
    task_processes,
    tensloradist,
    wait_until,
)

from tensloradist.results.claims import highest_claim

pytestmark = pytest.mark.slurm


def test_a_sweep_in_an_array_finishes_and_is_left_out_afterwards(cluster, tmp_path):
    sweep = Sweep(tmp_path, methods="lora, {tenslora: {grouping: [att, qkv_depth]}}", seeds=2, epochs=2)
    said = sweep.launch("--dry-run")
    assert "devcluster" not in said and "4 tasks for 6 runs" in said and "nothing was written" in said
    assert not sweep.root.exists()
    assert "Submitted: jobs" in sweep.launch()
    assert len(sweep.wait_finished()) == 6
    assert len(sweep.attempt_files("attempt.json")) == 6, "no run may be trained twice"
    again = sweep.launch()
    assert "left out: 6 finished" in again and "Nothing to submit" in again
    record = sweep.records("attempt.json")[0]
    assert record["slurm"]["job_id"] and record["host"] in ("n1", "n2", "n3", "n4")


@pytest.mark.parametrize("victim", ["worker", pytest.param("child", marks=pytest.mark.evidence)])
def test_kill_9_at_a_random_step(cluster, tmp_path, uninterrupted, victim):
    sweep = Sweep(tmp_path)
    sweep.launch()
    sweep.wait_step(20)
    time.sleep(random.random() * 4)
    (pid,) = task_processes(sweep) if victim == "worker" else (child_of_run(sweep),)
    os.kill(pid, signal.SIGKILL)
    sweep.wait_finished()
    assert len(sweep.attempt_files("attempt.json")) >= 2 and sweep.resumed_from()[-1] >= 20
    assert_same_bits(sweep, uninterrupted)


def test_requeue_without_a_signal(cluster, tmp_path, uninterrupted):
    sweep = Sweep(tmp_path)
    sweep.launch()
    step = sweep.wait_step(40)
    assert scontrol("requeue", sweep.jobs[0]).returncode == 0
    sweep.wait_finished()
    assert sweep.resumed_from()[-1] >= step - 20, "at most one interval may be lost"
    assert_same_bits(sweep, uninterrupted)


@pytest.mark.parametrize("signalled", [True, pytest.param(False, marks=pytest.mark.evidence)])
def test_preemption(cluster, tmp_path, uninterrupted, signalled):
    cluster.set_preempt_signal(signalled)
    sweep = Sweep(tmp_path)
    sweep.launch()
    sweep.wait_step(40)
    blocker = cluster.occupy("high", seconds=8)
    wait_until(lambda: job_field(sweep.jobs[0], "Restarts") not in (None, "0"), 60, "preempted")
    sweep.wait_finished(180)
    assert blocker
    assert_same_bits(sweep, uninterrupted)
    if signalled:
        assert sweep.causes() == ["preempted"]
        stopped = json.loads(sweep.attempt_files("end.json")[0].read_text())
        assert sweep.resumed_from()[1] == stopped["steps"], "nothing beyond a step may be lost"


def test_the_time_limit(cluster, tmp_path):
    sweep = Sweep(tmp_path, epochs=25, minutes=1, lead=45)
    whole = reference(sweep, tmp_path / "uninterrupted")
    sweep.launch()
    sweep.wait_finished(300)
    assert set(sweep.causes()) == {"time_limit"}
    ends = [json.loads(path.read_text()) for path in sweep.attempt_files("end.json")]  # perhaps not yet of the last
    resumed = sweep.resumed_from()[1:]
    # An attempt whose time was up before it trained kept what there was.
    steps = (end["steps"] for end in ends[: len(resumed)])
    kept = list(itertools.accumulate(steps, lambda before, after: after or before))
    assert resumed == kept, "nothing beyond a step may be lost"
    assert_same_bits(sweep, whole)


def test_a_crash_in_the_middle_of_a_pack(cluster, tmp_path):
    """abort() in the warm child: that attempt fails with its cause, the siblings finish, the run is tried again."""
    sweep = Sweep(tmp_path, seeds=3, epochs=8, parallel=1)
    sweep.launch("--runs-per-task", "3")
    wait_until(lambda: sweep.run(1).path.is_dir() and highest_claim(sweep.run(1)), 60, sweep.story)
    sweep.wait_step(20, index=1)
    os.kill(child_of_run(sweep, 1), signal.SIGABRT)
    sweep.wait_finished()
    (failure,) = sweep.records("failure.json")
    assert failure["cause"] == "bug" and "signal 6" in failure["message"]
    (decision,) = sweep.records("decision.json")
    assert decision["action"] == "retry"
    assert len(sweep.attempt_files("attempt.json")) == 4


@pytest.mark.xdist_group("another user")
def test_two_launches_at_the_same_moment_one_by_another_user(cluster, another_user, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    sweep = Sweep(folder, methods="lora, {tenslora: {grouping: [att, qkv_depth]}}", epochs=5, task="digits")
    home = folder / "home"
    for path in (sweep.root, home):
        path.mkdir()
    cluster.share(folder)
    command = ["launch", str(sweep.file), "--profile", str(sweep.profile), "--results", str(sweep.root)]
    theirs = cluster.as_other_user([*cluster.tensloradist, *command], home)
    before = os.umask(0o002)
    try:
        ours = sweep.launch()
    finally:
        os.umask(before)
    out, _ = theirs.communicate(timeout=120)
    assert theirs.returncode == 0 and "Submitted" in ours + out
    assert len(sweep.wait_finished(180)) == 3
    assert len(list(sweep.root.glob("runs/*/result.json"))) == 3
    assert len(sweep.attempt_files("result.json")) == 3, "no run may be trained twice to a second result"
    users = {json.loads(path.read_text())["user"] for path in sweep.root.glob("sweeps/*/launches/*/slurm.json")}
    assert users == {getpass.getuser(), another_user}


def test_a_cancelled_pending_element_is_launched_again(cluster, tmp_path):
    sweep = Sweep(tmp_path, seeds=2, parallel=1)
    sweep.launch("--runs-per-task", "1")
    sweep.wait_step(20)
    subprocess.run(["scancel", f"{sweep.jobs[0]}_1"], check=True, timeout=20)
    wait_until(lambda: len(sweep.results()) == 1, 90, sweep.story)
    shown = tensloradist("status", sweep.file, "--results", sweep.root, "--json")
    assert "cancelled" in shown.stdout.lower()
    assert "1 run to train" in sweep.launch()
    sweep.wait_finished()


def test_a_two_node_run_survives_kill_9(cluster, tmp_path):
    compute = ", strategy: ddp, processes: 2"
    sweep, whole = (Sweep(folder, compute=compute) for folder in (tmp_path, tmp_path / "whole"))
    whole.launch()
    whole.wait_finished(180)
    sweep.launch()
    sweep.wait_step(40)
    os.kill(random.choice(task_processes(sweep)), signal.SIGKILL)
    sweep.wait_finished(240)
    ours, theirs = sweep.results()[0], whole.results()[0]
    assert len(sweep.attempt_files("attempt.json")) >= 2
    assert ours.metrics.score == pytest.approx(theirs.metrics.score, abs=1e-6)
    hosts = {record["slurm"]["node_list"] for record in sweep.records("attempt.json")}
    assert all("[" in host or "," in host for host in hosts), "two nodes"
