"""The README's code runs as it is printed, and its plugins pass the conformance tests."""

import re
from pathlib import Path

import pytest
import torch

from tensloradist.adapter import Adapter, attach
from tensloradist.backbones import FAMILIES
from tensloradist.budget import count, isoparameter, lora_budget, surplus_ranks
from tensloradist.errors import UserError
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.metrics import METRICS
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec
from tensloradist.tasks import TASKS, load

README = (Path(__file__).parents[1] / "README.md").read_text()
HIDDEN = {"dropout": 0.1, "dropout_on": "hidden"}
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def registries():
    saved = [(registry, dict(registry)) for registry in (FAMILIES, FACTORIZATIONS, METRICS, TASKS)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


def test_the_library_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(BLOCKS[0], {})
    assert {p.name for p in (tmp_path / "my_adapter").iterdir()} == {
        "adapter.json",
        "adapter.safetensors",
        "head.safetensors",
    }


def test_every_plugin_is_short():
    assert len(BLOCKS) == 4
    assert all(len(block.splitlines()) < 40 for block in BLOCKS[1:])


@pytest.mark.parametrize("options", [{}, {"head_layout": "official"}, {"fused": True}, HIDDEN, {"alpha": 8.0}], ids=str)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_factorisation_is_cp(registries, grouping, options):
    """The same defaults, refusals, counts, solved ranks, initial values and pairs, to the last bit."""
    exec(BLOCKS[1], {})
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


def test_the_task(registries, tmp_path):
    exec(BLOCKS[2], {})
    task, backbone = TASKS["my_digits"].example(tmp_path)
    loaded = load(task, backbone)
    assert loaded.metrics(
        loaded.test.batch([0], None)["pixel_values"].flatten(1).numpy()[:, :5], loaded.test.labels[:1]
    )


def test_the_family(registries):
    namespace = {"__name__": "plugin"}
    exec(BLOCKS[3], namespace)
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
