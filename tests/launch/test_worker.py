"""Workers and children on their own, and several machines: takeover, two launches at once, ends that nobody ordered."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from launch.blame import cause_of_end
from launch.memory import memory_kills
from launch.plan import check
from launch.sweep import load_sweep
from tensloradist.files import write_replacing
from tensloradist.results.claims import claim, highest_claim
from tensloradist.results.layout import RunFolder

SWEEP = """
name: takeover
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora, {tenslora: {grouping: [qkv_depth, att]}}]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 1, batch_size: 64, learning_rate: 1e-2}
compute: {device: cpu, threads: 1}
"""


def launch(file, root, *options):
    command = [sys.executable, "-m", "tensloradist.cli", "launch", str(file), "--results", str(root), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def test_a_silent_owner_on_another_machine_is_replaced_and_a_beating_one_left_alone(file, tmp_path):
    root = tmp_path / "results"
    beating, silent, free = (RunFolder(root, run.run_id) for run in load_sweep(str(file)).runs)
    for run in (beating, silent):
        assert claim(run, heartbeat_seconds=1) is not None
        path = run.path / "claim.0001"
        owner = json.loads(path.read_text())
        path.unlink()
        path.write_text(json.dumps({**owner, "host": "elsewhere"}))
    ended = threading.Event()

    def beat():
        count = 0
        while not ended.wait(0.3):
            count += 1
            write_replacing(beating.path / "heartbeat.0001", str(count))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        process = launch(file, root, "--takeover-after", "8", "--workers", "1")
        out, _ = process.communicate(timeout=240)
    finally:
        ended.set()
        thread.join()
    assert process.returncode == 0, out
    assert "2 claimed on another machine" in out and "1 runs are alive elsewhere and were left alone" in out
    assert free.result.exists() and silent.result.exists() and not beating.result.exists()
    assert (highest_claim(free), highest_claim(silent), highest_claim(beating)) == (1, 2, 1)


def test_two_launches_at_once_share_the_runs(file, tmp_path):
    root = tmp_path / "results"
    both = [launch(file, root, "--workers", "1") for _ in range(2)]
    outs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert len(list(root.glob("runs/*/result.json"))) == 3
    assert len(list(root.glob("runs/*/attempts/*"))) == 3, "no run may be trained twice"
    assert set(check(load_sweep(str(file)), root).states.values()) == {"finished"}


@pytest.mark.distributed
def test_the_death_of_one_of_two_processes_is_no_interruption(file, tmp_path, monkeypatch):
    (tmp_path / "dying_plugin.py").write_text(
        "import os, signal\n"
        "from dataclasses import replace\n"
        "from tensloradist.tasks import TASKS\n"
        "def load(task, backbone, protocol):\n"
        "    if os.environ.get('RANK') == '1' and task.split_seed == 0 and not os.path.exists(os.environ['MARK']):\n"
        "        open(os.environ['MARK'], 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return TASKS['digits'].load(task.model_copy(update={'name': 'digits'}), backbone, protocol)\n"
        "TASKS['dying'] = replace(TASKS['digits'], name='dying', load=load)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    text = SWEEP.replace("threads: 1", "threads: 1, strategy: ddp, processes: 2").replace("[lora, ", "[")
    text = text.replace("{name: digits}", "{name: dying, split_seed: [0, 1]}").replace("[qkv_depth, att]", "att")
    file.write_text(text + "plugins: [dying_plugin]\n")
    process = launch(file, tmp_path / "results")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    records = [json.loads(p.read_text()) for p in (tmp_path / "results").glob("runs/*/attempts/*/failure.json")]
    assert [record["cause"] in ("killed", "out_of_host_memory", "communication") for record in records] == [True], out
    assert len(list((tmp_path / "results").glob("runs/*/result.json"))) == 2, (
        "it is tried again, and its sibling goes on"
    )


def test_an_idle_child_ends_when_its_supervisor_is_gone(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-m", "launch.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert json.loads(child.stdout.readline())["event"] == "ready"
    child.stdin.close()
    assert child.wait(120) in (0, 130)


@pytest.mark.parametrize(
    ("code", "for_memory", "cause"),
    [
        (-signal.SIGKILL, False, "killed"),
        (-signal.SIGKILL, True, "out_of_host_memory"),
        (-signal.SIGTERM, True, "killed"),
        (-signal.SIGSEGV, True, "bug"),
        (1, False, "bug"),
        (130, False, "interrupted"),
    ],
)
def test_causes_that_only_the_exit_code_tells(code, for_memory, cause):
    assert cause_of_end(code, for_memory) == cause


def test_the_kernels_count_of_memory_kills_can_be_read():
    assert memory_kills() >= 0
