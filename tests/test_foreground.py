"""A run in the foreground: lines now and then where there is no terminal, and requests to stop."""

import io
import os
import signal

import pytest
from rich.console import Console

from tensloradist import trackers
from tensloradist.commands import run
from tensloradist.errors import UserError
from tensloradist.foreground import Interruption, Progress
from tensloradist.results.control import RunControl
from tensloradist.trackers import require_trackers


@pytest.mark.parametrize(("each", "lines"), [(0, 3), (1e6, 1)])
def test_without_a_terminal_steps_are_shown_now_and_then_and_every_epoch(each, lines):
    shown = io.StringIO()
    with Progress(Console(file=shown, width=20), first=0, each=each) as progress:
        for step in (1, 2, 3):
            progress.show({"epoch": 1, "step": step, "steps": 6, "loss": 0.5})
        progress.show({"epoch": 1, "step": 3, "train_loss": 0.5, "validation": {"f1": 0.25, "matthews": None}})
    found = shown.getvalue().splitlines()
    assert found[0] == "epoch 1, step 1 of 6: loss 0.5000"
    assert found[-1] == "epoch 1, step 3 of 6: validation f1 0.2500"
    assert len(found) == lines + 1


def test_a_terminal_shows_the_step_the_loss_and_what_is_loading():
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    with Progress(console) as progress:
        progress.bar.refresh()
        progress.show({"epoch": 2, "step": 7, "steps": 40, "loss": 0.5})
        progress.bar.refresh()
    assert "loading the backbone and the data" in shown.getvalue()
    assert "epoch 2, step, loss 0.500" in shown.getvalue() and "7/40" in shown.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_stops_at_the_boundary_a_repeated_one_is_the_same_and_a_later_one_interrupts(
    number, monkeypatch, capfd
):
    now = [100.0]
    monkeypatch.setattr("tensloradist.foreground.time.monotonic", lambda: now[0])
    before, control = signal.getsignal(number), RunControl(at_boundary=True)
    with Interruption(control):
        signal.raise_signal(number)
        assert control.stop_reason == "interrupted"
        signal.raise_signal(number)  # torchrun passes the terminal's on
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        control.stopping = True
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_a_run_that_still_loads_is_interrupted_at_once():
    with Interruption(RunControl()), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_a_shell_ignores_stays_ignored():
    before, control = signal.signal(signal.SIGINT, signal.SIG_IGN), RunControl(at_boundary=True)
    try:
        with Interruption(control):
            signal.raise_signal(signal.SIGINT)
        assert control.stop_reason is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_tracker_that_is_not_installed_is_refused_by_name_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.MODULES, "wandb", ("no_such_module",))
    monkeypatch.setitem(trackers.MODULES, "mlflow", ("no_such_module_either",))
    (tmp_path / "run.yaml").write_text(
        "backbone: {source: digits_vit, name: digits_vit}\ntask: {name: digits}\nadapter: {method: lora}\n"
        "compute: {log_with: [wandb, mlflow], device: cpu}\n"
    )
    with pytest.raises(UserError, match="compute.log_with: wandb, mlflow are not installed here; run pip"):
        run(tmp_path / "run.yaml", results=tmp_path / "results")
    assert os.listdir(tmp_path) == ["run.yaml"]


def test_a_folder_of_a_trackers_logs_is_not_the_tracker(tmp_path, monkeypatch):
    (tmp_path / "own_logs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(trackers.MODULES, "wandb", ("own_logs",))
    with pytest.raises(UserError, match="wandb is not installed here; run pip install wandb, or remove it"):
        require_trackers(["wandb"])
    require_trackers([])
