"""Compiled blocks compute what they compute uncompiled: losses, gradients, dropout's draws, in every family."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from tensloradist.adapter import attach
from tensloradist.backbones import FAMILIES
from tensloradist.identity import resolve
from tensloradist.spec import AdapterSpec, RunSpec
from tensloradist.training import train, warm
from tensloradist.training.blocks import blocks, compile_blocks, recompute

HEADER = Path(sysconfig.get_path("include")) / "Python.h"
compiles = pytest.mark.skipif(
    shutil.which("g++") is None or not HEADER.exists(), reason=f"torch.compile needs g++ and {HEADER.name} here"
)


def spec(**compute):
    return resolve(
        RunSpec.model_validate(
            {
                "backbone": {"source": "digits_vit", "name": "digits_vit"},
                "task": {"name": "digits", "train_examples": 64},
                "adapter": {"grouping": "qkv_depth", "ranks": 2, "dropout": 0.1},
                "optimizer": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2},
                "compute": {"device": "cpu", "threads": 1, **compute},
            }
        )
    )


def trained(run, folder):
    """(each update's loss, the result)"""
    (folder / "0001").mkdir(parents=True)
    result = train(run, folder / "0001")
    rows = [json.loads(line) for line in (folder / "0001" / "metrics.jsonl").read_text().splitlines()]
    return [row["train_loss"] for row in rows if "train_loss" in row], result


@compiles
def test_a_run_is_the_same_compiled_and_the_next_one_in_the_process_is_not_compiled(tmp_path):
    expected, plain = trained(spec(), tmp_path / "plain")
    counters.clear()
    losses, compiled = trained(spec(compile=True), tmp_path / "compiled")
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 3, (
        "four layers: the first, whose input needs no gradient, the others, and all of them in evaluation"
    )
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    assert compiled.metrics == plain.metrics and compiled.run_id == plain.run_id
    assert compiled.frozen_backbone == plain.frozen_backbone
    again, _ = trained(spec(), tmp_path / "again")
    assert again == expected and counters["stats"]["unique_graphs"] == graphs
    warm.forget()


def test_without_a_compiler_it_says_so(tmp_path):
    (tmp_path / "run.yaml").write_text(spec(compile=True).model_dump_json())
    command = [sys.executable, "-m", "tensloradist.cli", "run", str(tmp_path / "run.yaml")]
    environment = {**os.environ, "PATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("CXX", None)
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "compute.compile: true needs a C++ compiler" in ended.stderr and "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("**/result.json"))


def test_zero3_cannot_be_compiled():
    with pytest.raises(ValueError, match="compile: true is not supported with zero3.*use zero2"):
        spec(compile=True, strategy="zero3", processes=2)


def gradients(family, model, inputs, adapter):
    model.zero_grad()
    logits = family.logits(model, inputs)
    logits.float().square().mean().backward()
    return logits.detach(), [parameter.grad.clone() for parameter in adapter.parameters()]


@compiles
@pytest.mark.evidence  # a quarter of a minute a family
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_compiles_to_whole_graphs_shared_by_its_layers(name, checkpointing):
    family = FAMILIES[name]
    torch.manual_seed(0)
    model, inputs = family.example()
    adapter = attach(model.eval(), AdapterSpec(grouping="att_qkv_depth", ranks=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    logits, expected = gradients(family, model, inputs, adapter)
    modules = blocks(model, family)
    counters.clear()
    compile_blocks(modules, torch.device("cpu"))
    if checkpointing:
        recompute(modules, adapter)
    for _ in range(2):
        found, ours = gradients(family, model, inputs, adapter)
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
        for gradient, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max() + 1))
    graphs = counters["stats"]["unique_graphs"]
    print(f"{name}: {len(modules)} blocks, {graphs} graphs")
    assert graphs == 2, "the first block's input needs no gradient, the others' does"
