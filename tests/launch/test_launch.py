"""Launching for real: workers, failures among siblings, kills, interruption, and launching again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SWEEP = """
name: fragile
backbone: {source: digits_vit, name: digits_vit}
task: {name: fragile, split_seed: [0, 1]}
methods: [lora, {tenslora: {grouping: [qkv_depth]}}]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 1, batch_size: 64, learning_rate: 1e-2}
compute: {device: cpu, threads: 1}
plugins: [failing_plugin]
"""
HERE = Path(__file__).parent


class Launch:
    def __init__(self, tmp_path):
        self.results = tmp_path / "results"
        self.file = tmp_path / "sweep.yaml"
        self.file.write_text(SWEEP)
        self.mark = tmp_path / "mark"

    def start(self, workers=1, command=None, **environment):
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FAIL_MARK": str(self.mark), **environment}
        words = command or ("launch", str(self.file), "--workers", str(workers))
        command = [sys.executable, "-m", "tensloradist.cli", *words, "--results", str(self.results)]
        return subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, workers=1, command=None, **environment):
        process = self.start(workers, command, **environment)
        out, _ = process.communicate(timeout=240)
        return process.returncode, out

    def finished(self):
        return len(list(self.results.glob("runs/*/result.json")))

    def causes(self):
        return Counter(json.loads(p.read_text())["cause"] for p in self.results.glob("runs/*/attempts/*/failure.json"))

    def children(self):
        """Processes of this launch's workers that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"FAIL_MARK={self.mark}".encode() in path.read_bytes():
                    found.append(path.parent.name)
            except OSError:
                continue
        return found


@pytest.fixture
def launch(tmp_path):
    return Launch(tmp_path)


def test_runs_are_trained_once_and_launching_again_does_nothing(launch):
    code, out = launch.run(workers=2)
    assert (code, launch.finished()) == (0, 4), out
    attempts = list(launch.results.glob("runs/*/attempts/*"))
    assert len(attempts) == 4, "two workers must not train the same run"
    results = [json.loads(path.read_text()) for path in launch.results.glob("runs/*/result.json")]
    loads = sorted(result["times"]["load_seconds"] for result in results)
    assert loads[1] < loads[-1] / 2, f"a warm worker has its backbone and data for the next run: {loads}"
    code, out = launch.run(workers=2)
    assert code == 0 and "Nothing to train" in out
    assert len(list(launch.results.glob("runs/*/attempts/*"))) == 4


def test_a_killed_child_is_replaced_and_a_micro_batch_that_does_not_fit_is_halved(launch):
    code, out = launch.run(FAIL_HOW="0=kill_once,1=memory_once")
    assert (code, launch.finished()) == (0, 4), out
    records = list(launch.results.glob("runs/*/attempts/*/failure.json"))
    failures = {json.loads(path.read_text())["cause"]: path for path in records}
    assert len(records) == 2 and failures.keys() <= {"killed", "out_of_host_memory", "out_of_device_memory"}
    memory = failures.pop("out_of_device_memory")
    (killed,) = failures.values()
    assert "signal 9" in killed.read_text()
    assert json.loads(killed.with_name("decision.json").read_text())["action"] == "retry"
    decision = json.loads(memory.with_name("decision.json").read_text())
    assert (decision["action"], decision["micro_batch"]) == ("retry_smaller", 32)
    again = json.loads((memory.parents[1] / "0002" / "attempt.json").read_text())
    assert again["compute"]["micro_batch"] == 32, "the batch is accumulated from smaller ones"


def test_a_cell_whose_first_runs_fail_alike_is_held(launch):
    launch.file.write_text(SWEEP.replace("seeds: 1", "seeds: 4").replace("[lora, ", "["))
    code, out = launch.run(FAIL_HOW="raise", FAIL_SPLIT_SEED="0")
    assert code == 1 and launch.causes() == {"bug": 3}, out
    assert launch.finished() == 4, "the other cell goes on"
    held = [json.loads(path.read_text())["reason"] for path in launch.results.glob("runs/*/held.json")]
    assert len(held) == 1 and "the first 3 runs of the cell failed: bug" in held[0]


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.evidence)])
def test_interruption_releases_the_runs_and_leaves_no_orphan(launch, number):
    process = launch.start(FAIL_HOW="hang", FAIL_SPLIT_SEED="0")
    wait_for(launch.mark.exists)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 130, out
    wait_for(lambda: not launch.children())
    assert launch.causes() == {"interrupted": 1}
    code, out = launch.run()
    assert (code, launch.finished()) == (0, 4), out


def test_a_killed_worker_leaves_no_orphan_and_the_next_launch_continues(launch):
    process = launch.start(FAIL_HOW="hang", FAIL_SPLIT_SEED="0")
    wait_for(launch.mark.exists)
    status = next(launch.results.glob("sweeps/fragile/launches/*/worker-0.json"))
    os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
    process.communicate(timeout=240)
    assert process.returncode == 1
    wait_for(lambda: not launch.children())
    code, out = launch.run()
    assert (code, launch.finished()) == (0, 4), out


@pytest.mark.distributed
def test_runs_of_two_processes(launch):
    text = SWEEP.replace("threads: 1", "threads: 1, strategy: ddp, processes: 2")
    launch.file.write_text(text.replace("split_seed: [0, 1]", "split_seed: 0"))
    code, out = launch.run()
    assert (code, launch.finished()) == (0, 2), out
    for path in launch.results.glob("runs/*/result.json"):
        assert json.loads(path.read_text())["provenance"]["processes"] == 2


def test_runs_over_several_nodes_need_a_profile(launch):
    launch.file.write_text(SWEEP.replace("threads: 1", "threads: 1, strategy: ddp, nodes: 2, processes_per_node: 1"))
    code, out = launch.run()
    assert code == 2 and "compute.nodes: 2, but this launch has one machine" in out and "Traceback" not in out
    assert not launch.results.exists()
