"""Evidence, not CI (`make soak`): 200 runs, a random fault every few seconds for ten minutes, one result a run."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest
from slurm_sweeps import Sweep, processes_of, scontrol, task_processes

from tensloradist.results.publish import read_result

pytestmark = [pytest.mark.slurm, pytest.mark.evidence]
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SEEDS = 50


def kill_worker(cluster, sweep):
    kill(task_processes(sweep))


def kill_child(cluster, sweep):
    kill(processes_of("launch.worker.child"))


def stop_child_for_a_while(cluster, sweep):
    victims = processes_of("launch.worker.child")
    if victims:
        pid = random.choice(victims)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)


def requeue_job(cluster, sweep):
    said = subprocess.run(
        ["squeue", "-h", "-r", "-t", "R", "-o", "%i"], capture_output=True, text=True, timeout=20
    ).stdout.split()
    if said:
        scontrol("requeue", random.choice(said))


def node_down(cluster, sweep):
    node = f"n{random.randint(1, 4)}"
    scontrol("update", f"nodename={node}", "state=down", "reason=soak")
    time.sleep(2)
    scontrol("update", f"nodename={node}", "state=resume")


def preempt(cluster, sweep):
    cluster.occupy("high", 3)


def kill_controller(cluster, sweep):
    cluster.kill("slurmctld")
    time.sleep(2)
    cluster.up()


FAULTS = (kill_worker, kill_child, stop_child_for_a_while, requeue_job, node_down, preempt, kill_controller)


def kill(pids):
    if pids:
        try:
            os.kill(random.choice(pids), signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            return


def jobs_left():
    said = subprocess.run(["squeue", "-h", "-r"], capture_output=True, text=True, timeout=20)
    return bool(said.stdout.strip()) or said.returncode != 0


def test_two_hundred_runs_through_ten_minutes_of_faults(cluster, tmp_path):
    methods = "lora, {tenslora: {grouping: [att, qkv_depth, att_qkv_depth]}}"
    sweep = Sweep(tmp_path, methods=methods, seeds=SEEDS, epochs=20, parallel=4, task="digits")
    assert len(sweep.run_ids) == 4 * SEEDS
    sweep.launch()
    dice, faults, began = random.Random(), Counter(), time.monotonic()
    launches = 1
    while time.monotonic() - began < SECONDS:
        time.sleep(dice.uniform(2, 8))
        fault = dice.choice(FAULTS)
        fault(cluster, sweep)
        faults[fault.__name__] += 1
        if not jobs_left():
            sweep.launch()
            launches += 1
    print(
        f"\n{sum(faults.values())} faults in {SECONDS:.0f} s: {dict(faults)}; {len(sweep.results())} of 200 runs done"
    )
    cluster.up()
    for node in range(1, 5):
        scontrol("update", f"nodename=n{node}", "state=resume")
    deadline = time.monotonic() + 1800
    while len(sweep.results()) < len(sweep.run_ids) and time.monotonic() < deadline:
        if not jobs_left():
            sweep.launch()
            launches += 1
        time.sleep(5)
    results = [read_result(sweep.run(index).result) for index in range(len(sweep.run_ids))]
    assert len(results) == 4 * SEEDS and all(result.state == "finished" for result in results)
    duplicates = 0
    for index, published in enumerate(results):
        for path in sweep.run(index).path.glob("attempts/*/result.json"):
            other = read_result(path)
            assert other.metrics == published.metrics, "a duplicate must be equal"
            duplicates += other.attempt != published.attempt
    attempts = len(sweep.attempt_files("attempt.json"))
    causes = Counter(json.loads(path.read_text())["cause"] for path in sweep.attempt_files("failure.json"))
    print(f"200 runs, one valid result each; {attempts} attempts, {duplicates} equal duplicates, {launches} launches")
    print(f"failures: {dict(causes)}")
