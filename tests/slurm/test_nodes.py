"""Nodes that go away, and processes that outlive what should have ended them: one result, whoever links it first."""

import json
import os
import signal

import pytest
from slurm_sweeps import Sweep, assert_same_bits, child_of_run, job_field, reference, scontrol, wait_until

from tensloradist.results.publish import read_result

pytestmark = pytest.mark.slurm


def node_of(sweep):
    return wait_until(
        lambda: job_field(f"{sweep.jobs[0]}_0", "NodeList") or job_field(sweep.jobs[0], "NodeList"), 20, ""
    )


def assert_one_result(sweep, index=0):
    """The run has one result; every other that an attempt reached is listed as a duplicate, and equal."""
    run = sweep.run(index)
    published = read_result(run.result)
    duplicates = 0
    for number in run.attempt_numbers():
        path = run.attempt(number) / "result.json"
        if path.exists() and number != published.attempt:
            other, end = read_result(path), json.loads((run.attempt(number) / "end.json").read_text())
            assert other.metrics == published.metrics and end["state"] == "duplicate"
            duplicates += 1
    return duplicates


def test_a_node_goes_down(cluster, tmp_path, uninterrupted):
    sweep = Sweep(tmp_path)
    sweep.launch()
    sweep.wait_step(20)
    node = node_of(sweep)
    scontrol("update", f"nodename={node}", "state=down", "reason=test")
    sweep.wait_finished(180)
    hosts = [record["host"] for record in sweep.records("attempt.json")]
    assert hosts[0] == node and hosts[-1] != node and sweep.resumed_from()[-1] >= 20
    assert_one_result(sweep)
    assert_same_bits(sweep, uninterrupted)


def test_an_orphan_of_a_killed_slurmd(cluster, tmp_path, uninterrupted):
    """The node is lost, its task lives on, and the job runs again elsewhere."""
    sweep = Sweep(tmp_path, epochs=30, task="ending")
    whole = reference(sweep, tmp_path / "whole")
    sweep.launch(ENDING_HOW="slow", ENDING_MARK=str(tmp_path / "mark"))
    sweep.wait_step(20)
    orphan = child_of_run(sweep)
    cluster.kill(f"slurmd.{node_of(sweep)}")
    wait_until(lambda: len(sweep.attempt_files("attempt.json")) > 1, 120, sweep.story)
    sweep.wait_finished(240)
    assert sweep.resumed_from()[1] >= 20
    wait_until(lambda: not os.path.exists(f"/proc/{orphan}"), 60, "the orphan has not ended")
    assert_one_result(sweep)
    assert_same_bits(sweep, whole)


def test_a_worker_stopped_between_its_last_check_and_publication(cluster, tmp_path):
    """A second one takes over and finishes; the first, going on, finds a result and leaves a duplicate."""
    sweep = Sweep(tmp_path, seeds=2, epochs=5, task="ending")
    mark = tmp_path / "mark"
    sweep.launch("--runs-per-task", "1", ENDING_HOW="stop", ENDING_MARK=str(mark))
    wait_until(lambda: mark.exists() and sweep.results(), 90, sweep.story)
    (index,) = [i for i in range(2) if not sweep.run(i).result.exists()]
    stopped = child_of_run(sweep, index)
    assert not (sweep.run(index).attempt(1) / "result.json").exists()
    sweep.launch(ENDING_HOW="")
    sweep.wait_finished(120)
    os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: (sweep.run(index).attempt(1) / "end.json").exists(), 60, sweep.story)
    assert read_result(sweep.run(index).result).attempt == 2
    assert assert_one_result(sweep, index) == 1
    assert "1 duplicate" in sweep.status()
