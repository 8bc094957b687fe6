"""What `plan`, `status` and `report` say of a run follows from its files alone, so they say the same."""

import json
from pathlib import Path

import damage
import pytest
from fake_slurm import FakeSlurm, status_of

from analysis.load import load
from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from launch.records.policy import RULES
from tensloradist.results.layout import RunFolder


@pytest.fixture
def file(tmp_path, monkeypatch):
    FakeSlurm(tmp_path / "bin").install(monkeypatch)
    return damage.make(tmp_path)


def run_of(root, state):
    return next(run.run_id for run in status_of("dented", root).runs if run.state == state)


def said(root, run_id):
    """The words of `status` and of `report` for a run."""
    state = next(run.state for run in status_of("dented", root).runs if run.run_id == run_id)
    return state, load("dented", root, use_cache=False).frame.set_index("run_id")["state"][run_id]


@pytest.mark.parametrize("action", ["stop", "retry", None])
def test_what_goes_on_by_itself_has_not_failed(file, action):
    root = file.parent / "results"
    run_id = run_of(root, "failed")
    attempt = RunFolder(root, run_id).attempt(1)
    failure = json.loads((attempt / "failure.json").read_text())
    decision = json.loads((attempt / "decision.json").read_text())
    (attempt / "decision.json").unlink()
    if action is not None:
        (attempt / "decision.json").write_text(json.dumps({**decision, "action": action}))
    for cause in RULES if action == "stop" else ("bug", "preempted"):
        (attempt / "failure.json").write_text(json.dumps({**failure, "cause": cause}))
        status, report = ("planned", "missing") if RULES[cause].goes_on or action == "retry" else ("failed", "failed")
        assert said(root, run_id) == (status, report), cause
    RunFolder(root, run_id).attempt(2).mkdir()  # killed without a word, so nothing is known against it
    assert said(root, run_id) == ("planned", "missing")


@pytest.mark.parametrize("name", ["result.json", "claim.0001"])
def test_what_may_not_be_read_is_not_promised_to_be_trained_anew(file, monkeypatch, name):
    root = file.parent / "results"
    run_id = run_of(root, "finished")
    run = RunFolder(root, run_id)
    read = Path.read_bytes

    def refused(path):
        if path == run.path / name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    if name != "result.json":
        run.result.unlink()
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert check(load_sweep(str(file)), root).states[run_id] == "not readable"
    assert said(root, run_id) == ("unreadable", "unreadable")
    warnings = status_of("dented", root).warnings
    assert not any("launch again" in line for line in warnings)
    assert any(f"1 run unreadable ({run_id}); no launch trains these runs" in line for line in warnings)
