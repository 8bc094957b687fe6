"""The references of every table: all weights trained, and the head alone."""

import pytest
import torch
from safetensors.torch import load_file

from tensloradist import backbones
from tensloradist.adapter import attach, load
from tensloradist.errors import UserError
from tensloradist.evaluation import evaluate_run
from tensloradist.identity import resolve
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.spec import RunSpec
from tensloradist.training import train, warm

HEAD = 48 * 5 + 5


def run_of(adapter):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits"},
        "adapter": adapter,
        "optimizer": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
        "compute": {"device": "cpu", "threads": 1},
    }
    return resolve(RunSpec.model_validate(data))


def reference(method):
    return run_of({"method": method})


def attempt(root, number=1):
    folder = root / f"{number:04d}"
    folder.mkdir(parents=True)
    return folder


def without_times(result):
    return result.model_dump(exclude={"times", "peak_memory", "provenance", "attempt"})


@pytest.mark.parametrize("method", ["full", "head"])
def test_a_reference_is_trained_counted_and_evaluated_again(tmp_path, method):
    run = reference(method)
    result = execute(run, tmp_path, train).result
    backbone = backbones.parameter_count(run.backbone) if method == "full" else 0
    assert result.adapter_parameters == backbone
    assert result.trainable_parameters == backbone + HEAD
    folder = RunFolder(tmp_path, run.run_id)
    assert evaluate_run(folder.path)["metrics"]["accuracy"] == result.metrics.score
    changed = [
        name
        for (name, ours), theirs in zip(
            _trained(run, folder.attempt(1)).named_parameters(),
            backbones.load(run.backbone, 5).parameters(),
            strict=True,
        )
        if not torch.equal(ours, theirs)
    ]
    assert all(name.startswith("classifier") for name in changed) == (method == "head")
    if method == "full":
        assert result.metrics.score > 0.6 and len(changed) > 60
        assert sum(v.numel() for v in load_file(folder.attempt(1) / "backbone.safetensors").values()) == backbone


def _trained(run, folder):
    model = backbones.load(run.backbone, 5)
    load(model, folder).detach()
    return model


def test_full_training_leaves_nothing_to_the_next_run_of_a_warm_process(tmp_path):
    warm.forget()
    cold = without_times(train(run_of({"grouping": "att"}), attempt(tmp_path / "cold")))
    head = without_times(train(reference("head"), attempt(tmp_path / "cold_head")))
    train(reference("full"), attempt(tmp_path / "full"))
    assert without_times(train(run_of({"grouping": "att"}), attempt(tmp_path / "after"))) == cold
    train(reference("full"), attempt(tmp_path / "full", 2))
    assert without_times(train(reference("head"), attempt(tmp_path / "after_head"))) == head


def test_full_is_paired_with_the_others_by_seed(tmp_path):
    full, lora = (
        train(reference_or_lora, attempt(tmp_path / name)).fingerprints
        for name, reference_or_lora in (("full", reference("full")), ("lora", run_of({"method": "lora"})))
    )
    assert full == lora


def test_references_refuse_what_only_adapters_have():
    for fields, says in (({"dropout": 0.1}, "takes no dropout"), ({"grouping": "att"}, "takes no grouping")):
        with pytest.raises(ValueError, match=says):
            reference("full").adapter.model_validate({"method": "full", **fields})
    model, _ = backbones.FAMILIES["vit"].example()
    adapter = attach(model, reference("full").adapter)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match="no update to merge"):
        adapter.merge()
