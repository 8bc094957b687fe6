"""The plugins of docs/plugins.md pass the conformance tests; its factorisation is CP to the last bit."""

import sys

import numpy as np
import pytest
import torch
from documentation import ROOT, blocks_of

from tensloradist.adapter import Adapter, attach
from tensloradist.backbones import FAMILIES
from tensloradist.budget import count, isoparameter, lora_budget, surplus_ranks
from tensloradist.errors import UserError
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.metrics import METRICS
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec
from tensloradist.tasks import TASKS, load

HIDDEN = {"dropout": 0.1, "dropout_on": "hidden"}
FILES = {block.file: block.text for block in blocks_of(ROOT / "docs" / "plugins.md") if block.language == "python"}


@pytest.fixture
def registries():
    saved = [(registry, dict(registry)) for registry in (FAMILIES, FACTORIZATIONS, METRICS, TASKS)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


def test_every_plugin_is_one_short_file():
    assert set(FILES) == {"my_cp.py", "my_metric.py", "my_digits.py", "my_topics.py", "my_backbone.py"}
    assert all(len(text.splitlines()) <= 40 for text in FILES.values())


@pytest.mark.parametrize("options", [{}, {"head_layout": "official"}, {"fused": True}, HIDDEN, {"alpha": 8.0}], ids=str)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_factorisation_is_cp(registries, grouping, options):
    """The same defaults, refusals, counts, solved ranks, initial values and pairs, to the last bit."""
    exec(FILES["my_cp.py"], {})
    shape = AttentionShape(12, 12, 3, 2)
    found = []
    for name in ("cp", "my_cp"):
        try:
            spec = AdapterSpec(grouping=grouping, factorization=name, ranks=3, **options)
            adapter = Adapter(spec, shape, seed=1)
        except UserError as error:
            found.append((str(error), {}))
            continue
        solved = [isoparameter(spec, lora_budget(shape, rank), shape).ranks for rank in (2, 20)]
        notes = [surplus_ranks(spec.model_copy(update={"ranks": rank}), shape) for rank in (3, 13, 500)]
        tensors = {key: value.clone() for key, value in adapter.state_dict().items()}
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        pairs = {f"{key}{side}": half for key, pair in adapter().items() for side, half in enumerate(pair)}
        known = spec.model_dump(exclude={"factorization"}), solved, notes, count(spec, shape), adapter.num_parameters
        found.append((known, tensors | pairs))
    (known, tensors), (ours, our_tensors) = found
    assert known == ours and tensors.keys() == our_tensors.keys()
    assert all(torch.equal(tensor, our_tensors[key]) for key, tensor in tensors.items())
    assert tensors or "fused" in options


@pytest.mark.parametrize("name", ["my_digits", "my_topics"])
def test_the_tasks(registries, tmp_path, monkeypatch, name):
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_metric.py").write_text(FILES["my_metric.py"])
    exec(FILES[f"{name}.py"], {})
    task, backbone = TASKS[name].example(tmp_path)
    loaded = load(task, backbone)
    assert loaded.num_labels == TASKS[name].num_labels(task)
    right = np.eye(loaded.num_labels, dtype=np.float32)[loaded.test.labels]
    assert loaded.metrics(right, loaded.test.labels) == dict.fromkeys(loaded.metric_names, 1.0)
    assert loaded.metrics(1 - right, loaded.test.labels)["accuracy"] == 0.0
    assert TASKS[name].fingerprint(task) == loaded.data_fingerprint


def test_the_family(registries):
    namespace = {"__name__": "plugin"}
    exec(FILES["my_backbone.py"], namespace)
    family = FAMILIES["tiny"]
    model, inputs = family.example()
    with torch.no_grad():
        before = family.logits(model, inputs)
        adapter = attach(model, AdapterSpec(grouping="qkv", ranks=2))
        assert torch.equal(family.logits(model, inputs), before)
        for parameter in adapter.parameters():
            parameter.normal_()
        after = family.logits(model, inputs)
        assert not torch.allclose(after, before)
        adapter.merge()
        torch.testing.assert_close(family.logits(model, inputs), after, rtol=1e-4, atol=1e-4)
