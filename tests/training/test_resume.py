"""Checkpoints and resumption: a run that was stopped anywhere ends with the bits of one that never was."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tensloradist.identity import resolve
from tensloradist.records import DamagedRecord
from tensloradist.results.attempts import begin_attempt, read_attempt, read_end
from tensloradist.results.checkpoints import newest_valid
from tensloradist.results.control import RunControl
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.results.metrics import read_metrics
from tensloradist.results.publish import read_failure_of
from tensloradist.spec import RunSpec
from tensloradist.training import checkpoint as training_checkpoint
from tensloradist.training import train

FILES = ("adapter.safetensors", "head.safetensors", "predictions.safetensors")
OPTIMIZER = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2}
COMPUTE = {"device": "cpu", "threads": 1}
KINDS = {
    "dropout": {"adapter": {"grouping": "qkv_depth", "ranks": 2, "dropout": 0.2}},
    "accumulation and clipping": {
        "compute": {**COMPUTE, "micro_batch": 6, "evaluation_batch": 64},
        "optimizer": {**OPTIMIZER, "gradient_clipping": 0.5, "warmup": 0.2},
    },
    "bf16, groups of rates": {"precision": "bf16", "optimizer": {**OPTIMIZER, "lr_multipliers": {"core": 2.0}}},
    "official": {"protocol": "official"},
    "dropout between A and B": {"adapter": {"method": "fact_tt", "ranks": 2}},
    "all weights": {"adapter": {"method": "full"}, "optimizer": {**OPTIMIZER, "learning_rate": 1e-3}},
}
SHORT = ("dropout", "accumulation and clipping", "bf16, groups of rates", "all weights")


def spec(**changes):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits", "train_examples": 144},  # nine updates an epoch
        "adapter": {"grouping": "att", "ranks": 2},
        "optimizer": OPTIMIZER,
        "compute": COMPUTE,
        **changes,
    }
    return resolve(RunSpec.model_validate(data))


class StopAt(RunControl):
    """Told to stop, as by a signal, before the loop's given look."""

    def __init__(self, looks):
        self._looked, self._last = 0, looks
        super().__init__()

    @property
    def stop_reason(self):
        self._looked += 1
        return "preempted" if self._looked >= self._last else None

    @stop_reason.setter
    def stop_reason(self, value):
        pass


def outcome_of(run, root):
    result = execute(run, root, train).result
    attempt = RunFolder(root, run.run_id).attempt(result.attempt)
    return result, [(attempt / name).read_bytes() for name in FILES]


def assert_equal(run, first, second):
    (ours, our_files), (theirs, their_files) = outcome_of(run, first), outcome_of(run, second)
    assert ours.metrics == theirs.metrics and ours.fingerprints == theirs.fingerprints
    assert ours.times.steps == theirs.times.steps
    assert our_files == their_files


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SHORT else pytest.mark.evidence) for kind in KINDS]
)
def test_a_run_that_was_stopped_often_ends_with_the_same_bits(tmp_path, kind):
    run = spec(**KINDS[kind])
    # Looks come after every update and within evaluations: so these are several places in and between epochs.
    for number, looks in enumerate((1, 5, 9, 4, 3), 1):
        outcome = execute(run, tmp_path / "stopped", train, control=StopAt(looks))
        assert outcome.status == "failed" and outcome.failure.cause == "preempted", outcome
        assert read_end(outcome.attempt).steps == newest_valid(RunFolder(tmp_path / "stopped", run.run_id)).step
        assert outcome.attempt.name == f"{number:04d}"
    assert_equal(run, tmp_path / "stopped", tmp_path / "whole")
    folder = RunFolder(tmp_path / "stopped", run.run_id)
    resumed = [read_attempt(folder.attempt(n)).resumed_from for n in folder.attempt_numbers()]
    assert resumed[0] is None and [r.step for r in resumed[1:]] == sorted({r.step for r in resumed[1:]})
    assert not list(folder.path.rglob("checkpoints")), "a finished run needs none"
    curves = []
    for root in ("stopped", "whole"):
        last = RunFolder(tmp_path / root, run.run_id)
        records, torn = read_metrics(last.attempt(max(last.attempt_numbers())) / "metrics.jsonl")
        assert torn is None
        curves.append([(r["epoch"], r["step"], r["train_loss"], r["validation"]) for r in records if "validation" in r])
    assert curves[0] == curves[1], "the last attempt's file is complete"


def test_text_sorted_by_length_resumes_to_the_bit(tmp_path):
    from tensloradist.tasks import TASKS

    (tmp_path / "example").mkdir()
    task, backbone = TASKS["mrpc"].example(tmp_path / "example")
    run = spec(
        backbone=backbone.model_dump(exclude={"fingerprint"}),
        task=task.model_dump(exclude={"fingerprint"}),
        optimizer={"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        adapter={"grouping": "depth", "ranks": 2, "dropout": 0.1},
    )
    for looks in (2, 4):
        assert execute(run, tmp_path / "a", train, control=StopAt(looks)).failure.cause == "preempted"
    assert_equal(run, tmp_path / "a", tmp_path / "b")


def test_kill_9_loses_at_most_an_interval(tmp_path):
    run = spec(optimizer={**OPTIMIZER, "epochs": 8}, compute={**COMPUTE, "checkpoint_steps": 10})
    folder = RunFolder(tmp_path / "killed", run.run_id)
    code = (
        "import sys; from pathlib import Path; from tensloradist.spec import RunSpec; "
        "from tensloradist.training import train; from tensloradist.results.execute import execute; "
        "execute(RunSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), train)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, run.model_dump_json(), str(tmp_path / "killed")])
    deadline = time.monotonic() + 240
    while not list(folder.path.glob("attempts/*/checkpoints/step-*30/COMPLETE")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_equal(run, tmp_path / "killed", tmp_path / "whole")
    assert read_attempt(folder.attempt(2)).resumed_from.step >= 20


@pytest.fixture
def stopped(tmp_path):
    """A run with two checkpoints, stopped."""
    run = spec(compute={**COMPUTE, "checkpoint_steps": 4})
    outcome = execute(run, tmp_path, train, control=StopAt(10))
    found = sorted(outcome.attempt.glob("checkpoints/step-*"))
    assert [path.name for path in found] == ["step-00000008", "step-00000010"] or len(found) == 2
    return run, RunFolder(tmp_path, run.run_id), found


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", "COMPLETE"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(stopped, tmp_path, caplog, file):
    run, folder, (before, newest) = stopped
    data = (newest / file).read_bytes()
    (newest / file).write_bytes(data[: len(data) // 2])
    assert newest_valid(folder).folder == before
    assert f"{newest} is damaged" in caplog.text
    (newest / "COMPLETE").unlink()
    assert newest_valid(folder).folder == before and "COMPLETE is missing" in caplog.text
    outcome = execute(run, tmp_path, train)
    assert outcome.status == "finished"
    assert read_attempt(outcome.attempt).resumed_from.step == int(before.name.removeprefix("step-"))


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    run = spec(compute={**COMPUTE, "checkpoint_steps": 4})
    write = training_checkpoint.write_synced

    def full(path, content):
        if "step-00000008" in str(path) and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(training_checkpoint, "write_synced", full)
    outcome = execute(run, tmp_path, train)
    assert outcome.failure.cause == "disk_full" and "No space left" in outcome.failure.message
    assert [p.name for p in (outcome.attempt / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    again = execute(run, tmp_path, train)
    assert again.status == "finished" and read_attempt(again.attempt).resumed_from.step == 4


def test_a_run_that_was_taken_over_ends_at_its_next_checkpoint(tmp_path):
    run = spec(compute={**COMPUTE, "checkpoint_steps": 5})
    folder = RunFolder(tmp_path, run.run_id)

    def overtaken(record):
        (folder.path / "claim.0002").write_text("{}")

    outcome = execute(run, tmp_path, train, progress=overtaken)
    assert outcome.failure.cause == "interrupted" and "taken this run over" in outcome.failure.message
    assert not list(outcome.attempt.glob("checkpoints/*"))


def test_a_torn_last_line_is_said_and_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    records, torn = read_metrics(path)
    assert records == [{"step": 1}] and "line 2 was torn" in torn
    path.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(DamagedRecord, match="line 1 is not JSON"):
        read_metrics(path)


def test_a_failure_says_the_reason_that_was_asked_for(tmp_path):
    """A stop that came while the run was loading, where it is interrupted instead."""
    run = spec()

    def loading(given, folder, progress, control):
        control.stop_reason = "preempted"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path, loading, control=RunControl())
    assert read_failure_of(RunFolder(tmp_path, run.run_id), 1).cause == "preempted"


RANK = """
import json, os, sys
from pathlib import Path
from tensloradist.results.control import RunControl, Stopped
from tensloradist.spec import RunSpec
from tensloradist.training import checkpoint as training_checkpoint
from tensloradist.training import train
run, folder, looks = RunSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
class Told(RunControl):
    looked = 0
    @property
    def stop_reason(self):
        Told.looked += 1
        return "time_limit" if looks and os.environ["RANK"] == "1" and Told.looked >= looks else None
    @stop_reason.setter
    def stop_reason(self, value): pass
try:
    print(train(run, folder, None, Told()).metrics.model_dump_json())
except Stopped as stopped:
    print(json.dumps({"step": stopped.step}))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.distributed
def test_two_processes_resume_to_the_bit(tmp_path):
    run = spec(
        compute={**COMPUTE, "strategy": "ddp", "processes": 2}, adapter={"grouping": "att", "ranks": 2, "dropout": 0.1}
    )

    def start(folder, looks, port):
        base = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", RANK, run.model_dump_json(), str(folder), str(looks)]
        ranks = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**base, "RANK": r, "LOCAL_RANK": r})
            for r in ("0", "1")
        ]
        return [json.loads(rank.communicate(timeout=240)[0].splitlines()[-1]) for rank in ranks]

    stopped, whole = (RunFolder(tmp_path / root, run.run_id) for root in ("stopped", "whole"))
    for folder in (stopped, whole):
        folder.attempt(1).mkdir(parents=True)
        begin_attempt(folder, 1, run, None)
    steps = start(stopped.attempt(1), 7, 29511)
    assert steps == [{"step": 7}, {"step": 7}], "the processes agree, whichever was told to stop"
    stopped.attempt(2).mkdir()
    begin_attempt(stopped, 2, run, newest_valid(stopped))
    assert start(stopped.attempt(2), 0, 29512) == start(whole.attempt(1), 0, 29513)
    for name in FILES:
        assert (stopped.attempt(2) / name).read_bytes() == (whole.attempt(1) / name).read_bytes()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_another_micro_batch_is_marked_where_random_numbers_are_drawn(tmp_path, dropout):
    adapter = {"grouping": "qkv_depth", "ranks": 2, "dropout": dropout}
    run = spec(adapter=adapter)
    assert execute(run, tmp_path, train, control=StopAt(5)).failure.cause == "preempted"
    other = spec(adapter=adapter, compute={**COMPUTE, "micro_batch": 8})
    assert other.run_id == run.run_id
    found = execute(other, tmp_path, train).result.provenance["not_exact"]
    assert found == (["resumed with micro_batch 8 after None, with dropout"] if dropout else [])
