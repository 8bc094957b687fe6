"""Every shipped sweep plans: those on real data here, those of the Hub from a cache that has only configurations."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from analysis.address import parse_name
from analysis.statistics.power import seeds_needed
from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from tensloradist import backbones
from tensloradist.config import read_sweep
from tensloradist.shipped import find_shipped, shipped_names

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = shipped_names("sweeps")
ON_THE_HUB = [name for name in NAMES if "google/" in find_shipped("sweeps", name).read_text()]
ON_THE_HUB += [name for name in NAMES if "FacebookAI/" in find_shipped("sweeps", name).read_text()]
BACKBONES = {"google/vit-base-patch16-224": "ViTConfig", "FacebookAI/roberta-base": "RobertaConfig"}

SCRIPT = """
import json, sys
from pathlib import Path
from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
said = {}
for name in sys.argv[1:]:
    plan = check(load_sweep(name), Path("none"))
    rows, conditions = sorted({run.row for run in plan.sweep.runs}), [c.name for c in plan.sweep.conditions]
    said[name] = {"runs": len(plan.to_run()), "missing": len(plan.missing), "rows": rows, "conditions": conditions}
print(json.dumps(said))
"""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ON_THE_HUB])
def test_a_sweep_on_real_data_plans(name, data_root, monkeypatch, tmp_path):
    monkeypatch.setenv("TENSLORADIST_DATA", str(data_root))
    monkeypatch.setattr("tensloradist.spectra._gradients", gradients_of_nothing)  # the real ones take a quarter minute
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    plan = check(load_sweep(name), tmp_path / "results")
    assert plan.to_run() and not plan.missing
    for run in plan.sweep.runs:
        for membership in run.conditions:
            tolerance = {c.name: c.tolerance for c in plan.sweep.conditions}[membership.condition]
            shared = run.spec.adapter.method in ("lora", "full", "head") or run.spec.adapter.factorization == "cp"
            assert tolerance is None or shared or abs(membership.residual) <= 0.05, run.labels
    commands_find_their_rows(
        name, sorted({run.row for run in plan.sweep.runs}), [c.name for c in plan.sweep.conditions]
    )


def gradients_of_nothing(backbone, task, protocol, projections, batch_size):
    """Random gradients of the shapes of the backbone's projections, by projection and layer."""
    shape = backbones.shape_of(backbone)
    generator = torch.Generator().manual_seed(0)
    return {
        (projection, layer): torch.randn(*shape.widths(projection), generator=generator)
        for projection in projections
        for layer in range(shape.layers)
    }


def test_the_sweeps_of_the_hub_plan(tmp_path):
    import transformers

    from tensloradist.tasks.named_images import HUB_IMAGES

    for name, config in BACKBONES.items():
        getattr(transformers, config)().save_pretrained(_cached(tmp_path, "models", name))
    for name in ("nyu-mll/glue", HUB_IMAGES["dtd"].name, HUB_IMAGES["eurosat"].name):
        _cached(tmp_path, "datasets", name)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, *ON_THE_HUB]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said) == set(ON_THE_HUB) and len(said) >= 6
    for name, plan in said.items():
        assert plan["runs"] > 0 and plan["missing"] > 0, name  # the weights and the data are still to be fetched
        commands_find_their_rows(name, plan["rows"], plan["conditions"])
    # Two tasks, and three ranks in two conditions of which LoRA is one run, with the seeds that seven rows need.
    assert said["paper/vision"]["runs"] == said["paper/language"]["runs"] == 2 * 3 * (1 + 7 * 2) * 10
    assert seeds_needed(7) <= 10


@pytest.mark.parametrize("name", [name for name in ON_THE_HUB if not name.endswith("_bf16")])
def test_a_sweep_for_gpus_has_a_twin_in_bf16_that_differs_by_nothing_else(name):
    ours, twin = (read_sweep(find_shipped("sweeps", found)) for found in (name, f"{name}_bf16"))
    assert twin == {**ours, "name": f"{ours['name']}_bf16", "precision": "bf16"} and "precision" not in ours


def commands_find_their_rows(name, rows, conditions):
    """What a sweep's first lines say to compare is there by these names."""
    lines = [line.lstrip("# ") for line in find_shipped("sweeps", name).read_text().splitlines() if line[:1] == "#"]
    commands = [shlex.split(line) for line in lines if line.startswith("tensloradist compare")]
    for command in commands:
        place = command.index("--sweep")
        given, between = command[2:place], []
        if "--between" in given:
            given, between = given[:1], given[2:]
        assert command[place:] == ["--sweep", name] and len(given) + len(between) in (2, 3)
        assert len({parse_name(text, "method", rows) for text in given}) == len(given)
        assert len({parse_name(text, "condition", conditions) for text in between}) == len(between)
    assert commands or not name.startswith(("mode_ranks", "core_learning_rate", "head_layout")), name


def _cached(tmp_path, kind, name):
    repository = tmp_path / "hf" / "hub" / f"{kind}--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize("name", NAMES)
def test_the_question_comes_first(name):
    """A sweep says in its first lines what it asks."""
    lines = find_shipped("sweeps", name).read_text().splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    assert "?" in comment or name.startswith("paper/"), comment
    assert name.startswith("paper/") or any(line.startswith("name: " + name) for line in lines)
