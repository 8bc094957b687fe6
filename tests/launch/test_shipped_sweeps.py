"""Every shipped sweep plans: those on real data here, those of the Hub from a cache that has only configurations."""

import json
import os
import subprocess
import sys

import pytest

from launch.plan import check
from launch.sweep import load_sweep
from tensloradist.shipped import find_shipped, shipped_names

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = shipped_names("sweeps")
ON_THE_HUB = [name for name in NAMES if "google/" in find_shipped("sweeps", name).read_text()]
ON_THE_HUB += [name for name in NAMES if "FacebookAI/" in find_shipped("sweeps", name).read_text()]
BACKBONES = {"google/vit-base-patch16-224": "ViTConfig", "FacebookAI/roberta-base": "RobertaConfig"}

SCRIPT = """
import json, sys
from pathlib import Path
from launch.plan import check
from launch.sweep import load_sweep
said = {}
for name in sys.argv[1:]:
    plan = check(load_sweep(name), Path("none"))
    said[name] = {"runs": len(plan.to_run()), "missing": len(plan.missing)}
print(json.dumps(said))
"""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ON_THE_HUB])
def test_a_sweep_on_real_data_plans(name, data_root, monkeypatch, tmp_path):
    monkeypatch.setenv("TENSLORADIST_DATA", str(data_root))
    plan = check(load_sweep(name), tmp_path)
    assert plan.to_run() and not plan.missing
    for run in plan.sweep.runs:
        for membership in run.conditions:
            tolerance = {c.name: c.tolerance for c in plan.sweep.conditions}[membership.condition]
            shared = run.spec.adapter.method in ("lora", "full", "head") or run.spec.adapter.factorization == "cp"
            assert tolerance is None or shared or abs(membership.residual) <= 0.05, run.labels


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
