"""Workers and children on their own, and several machines: takeover, two launches at once, ends that nobody ordered."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthetic import spec_of

from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from launch.worker.children import Child, Crash, stop_all
from launch.worker.diagnosis import cause_of_end, diagnose_crash
from launch.worker.oom import memory_kills
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
    assert "2 claimed on another machine" in out and "1 run is alive elsewhere and left alone" in out
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
        [sys.executable, "-m", "launch.worker.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        ("[rank1]:[E ProcessGroupNCCL.cpp:685] [Rank 1] Watchdog caught collective operation timeout", "communication"),
        ("double free or corruption (out)", "bug"),
    ],
)
def test_an_abort_by_nccls_watchdog_is_told_from_others_and_names_the_silent_processes(tmp_path, says, cause):
    log = tmp_path / "worker.err"
    log.write_text("x" * 100_000 + "\n" + says + "\n")
    folder = RunFolder(tmp_path, "r")
    (folder.attempt(1) / "ranks").mkdir(parents=True)
    run = SimpleNamespace(spec=spec_of(compute={"strategy": "ddp", "processes": 3}))
    found, message, *_ = diagnose_crash(run, folder, 1, Crash(-signal.SIGABRT, str(log)), False)
    assert found == cause
    assert ("process 1, 2 left no record" in message) == (cause == "communication")


def test_processes_that_hang_are_stopped_together(tmp_path):
    """All are signalled before any is waited for: three that ignore the signal take one grace time, not three."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); time.sleep(60)"
    children = [Child(tmp_path / "log", {}, [sys.executable, "-c", deaf]) for _ in range(3)]
    for child in children:
        assert child.next_event(30) == {}
    began = time.monotonic()
    stop_all(children, 1.0)
    assert time.monotonic() - began < 2.5
    assert all(child.has_ended for child in children)


def test_a_worker_on_a_broken_gpu_ends_and_another_takes_its_run(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("FAIL_HOW", "device_once")
    monkeypatch.setenv("FAIL_MARK", str(tmp_path / "mark"))
    file.write_text(SWEEP.replace("{name: digits}", "{name: fragile}") + "plugins: [failing_plugin]\n")
    process = launch(file, tmp_path / "results", "--workers", "2")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    (failure,) = [json.loads(p.read_text()) for p in (tmp_path / "results").glob("runs/*/attempts/*/failure.json")]
    assert failure["cause"] == "device_failure"
    assert len(list((tmp_path / "results").glob("runs/*/result.json"))) == 3


def test_the_kernels_count_of_memory_kills_can_be_read():
    assert memory_kills() >= 0
