"""A process of a group that fails, dies or hangs: the others stop in time, and the record names it and its error."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_groups import TIMEOUT, attempt, free_port, run_group, spec

from tensloradist.results.ranks import failed_rank, silent
from tensloradist.results.schema import Failure

pytestmark = pytest.mark.distributed

SWEEP = """
name: fragile
backbone: {source: digits_vit, name: digits_vit}
task: {name: fragile, train_examples: 150}
methods: [lora]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 1, batch_size: 32, learning_rate: 1e-2}
compute: {device: cpu, threads: 1, processes: 2, strategy: ddp}
plugins: [failing_plugin]
"""
PLUGINS = Path(__file__).parents[1] / "launch"


def launch(tmp_path, **environment):
    """Launch a run of two processes; the exit code, the output, and the first attempt's failure."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    env = {**os.environ, "PYTHONPATH": str(PLUGINS), "FAIL_MARK": str(tmp_path / "mark"), **environment}
    command = [sys.executable, "-m", "tensloradist.cli", "launch", str(tmp_path / "sweep.yaml")]
    command += ["--results", str(tmp_path / "results")]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    found = sorted((tmp_path / "results").glob("runs/*/attempts/0001/failure.json"))
    return ended.returncode, ended.stdout + ended.stderr, Failure.model_validate_json(found[0].read_text())


def test_an_error_on_another_process_is_the_cause_that_is_recorded(tmp_path):
    code, output, failure = launch(tmp_path, FAIL_HOW="raise", FAIL_RANK="1")
    assert code == 1 and failure.cause == "bug"
    assert failure.message.startswith("process 1 of 2 (") and "RuntimeError: broken on request" in failure.message
    assert "broken on request" in output
    assert len(list((tmp_path / "results").glob("runs/*/attempts/*"))) == 1, "an exception would only come again"


def test_a_process_that_was_killed_is_named_and_the_run_tried_again(tmp_path):
    code, output, failure = launch(tmp_path, FAIL_HOW="kill_once", FAIL_RANK="1")
    assert failure.cause == "killed" and failure.message.startswith("process 1 of 2 ended by signal 9")
    assert code == 0, output
    assert len(list((tmp_path / "results").glob("runs/*/result.json"))) == 1


@pytest.mark.parametrize(("strategy", "how"), [("ddp", "hang"), ("zero2", "hang in backward"), ("zero3", "hang")])
def test_a_process_that_hangs_is_waited_for_no_longer_than_the_timeout(tmp_path, strategy, how):
    pytest.importorskip("deepspeed", reason="needs the extra 'deepspeed'")
    run = spec({"strategy": strategy, "processes": 2, "timeout_seconds": 5})
    began = time.monotonic()
    job = {"run": run, "folder": attempt(tmp_path, run), "stop": [1, 4, how]}
    ended = run_group(tmp_path / "group", [job], only=0)
    assert ended.codes[0] not in (0, None) and time.monotonic() - began < 200, "it hangs for 600 s"
    if how == "hang":
        assert silent(job["folder"], 2) == [1], "the one that hangs can be named"
    assert "imed out" in ended.errors[0] or "imeout" in ended.errors[0], ended.errors[0][-2000:]


def test_a_failing_process_leaves_its_word_before_the_others_notice(tmp_path):
    run = spec({"strategy": "ddp", "processes": 2, "timeout_seconds": 60})
    job = {"run": run, "folder": attempt(tmp_path, run), "stop": [1, 4, "raise"]}
    ended = run_group(tmp_path / "group", [job])
    assert 0 not in ended.codes
    found = failed_rank(job["folder"])
    assert found.rank == 1 and found.message == "ValueError: the disk of this node is broken"
    assert json.loads((job["folder"] / "ranks" / "1.json").read_text())["cause"] == "bug"


def test_a_group_that_never_gathers_is_a_failure_of_communication(tmp_path):
    """One of two processes is started: the other is waited for as long as the spec says."""
    (tmp_path / "run.json").write_text(
        spec({"strategy": "ddp", "processes": 2, "timeout_seconds": 5}).model_dump_json()
    )
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "tensloradist.cli", "run", str(tmp_path / "run.json")]
    command += ["--results", str(tmp_path / "results")]
    ended = subprocess.run(command, env={**os.environ, **place}, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 1
    (found,) = (tmp_path / "results").glob("runs/*/attempts/0001/failure.json")
    failure = Failure.model_validate_json(found.read_text())
    assert failure.cause == "communication" and "1/2 clients joined" in failure.message
