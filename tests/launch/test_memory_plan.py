"""`plan --memory`: a table for each model and batch, and the cheapest strategy that fits."""

import json

import pytest
from typer.testing import CliRunner

from launch.planning.memory import _numbers, memory_plans
from launch.planning.sweep_file import load_sweep
from tensloradist.cli import _application
from tensloradist.errors import UserError
from tensloradist.tasks.examples import language_backbone, language_folder


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "sweep.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "memory",
                "backbone": {"name": language_backbone(tmp_path).name, "random_init": True},
                "task": {"name": "causal_lm", "data": language_folder(tmp_path).data},
                "methods": ["lora", {"tenslora": {"grouping": "qkv_depth"}}],
                "conditions": [{"isorank": [2]}],
                "seeds": 2,
                "optimizer": {"epochs": 1, "batch_size": 8},
            }
        )
    )
    return path


def test_one_plan_for_all_runs_of_a_model_with_a_smaller_share_for_more_processes(sweep):
    (plan,) = memory_plans(load_sweep(str(sweep)), [1, 2], 2**30)
    assert [(n.strategy, n.processes) for n in plan.needs] == [
        ("single", 1),
        *((s, 2) for s in ("ddp", "zero1", "zero2", "zero3")),
    ]
    assert plan.recommended == plan.needs[0]
    assert plan.needs[1].activations < plan.needs[0].activations
    assert plan.needs[4].parameters < plan.needs[1].parameters
    (none,) = memory_plans(load_sweep(str(sweep)), [2], 2**10)
    assert none.recommended is None


def test_the_command_prints_and_recommends_for_the_device_that_is_meant(sweep):
    """A GPU by --gpu or by the sweep, whatever there is on this machine; the CPU otherwise, which the plan says."""
    run = CliRunner().invoke(_application(), ["plan", str(sweep), "--memory", "--gpu", "24GiB", "--processes", "1,2"])
    assert run.exit_code == 0, run.output
    assert "zero3" in run.output and "Recommended on 24GiB: strategy single with 1 process," in run.output
    assert "MiB a process on a GPU" in run.output
    run = CliRunner().invoke(_application(), ["plan", str(sweep), "--memory", "--processes", "1"])
    assert "MiB a process on the CPU" in run.output and "plan for one with --gpu" in run.output
    data = json.loads(sweep.read_text())
    sweep.write_text(json.dumps({**data, "compute": {"device": "cuda"}}))
    run = CliRunner().invoke(_application(), ["plan", str(sweep), "--memory", "--json", "--processes", "2"])
    (plan,) = json.loads(run.stdout)
    assert {need["processes"] for need in plan["needs"]} == {2} and plan["device"] == "cuda"


def test_the_demo_is_planned_too():
    """Whose pictures are tensors that lie in memory."""
    run = CliRunner().invoke(_application(), ["plan", "demo", "--memory", "--gpu", "t4", "--processes", "1,2"])
    assert run.exit_code == 0, run.output
    assert "Recommended on t4: strategy single" in run.output and "loaded: the host's memory" in run.output


def test_mistakes():
    for text in ("0", "a", ""):
        with pytest.raises(UserError, match="expected numbers"):
            _numbers(text)
