"""The README's code runs as it is printed, and its plugins pass the conformance tests."""

import re
from pathlib import Path

import pytest
import torch

from tensloradist.adapter import Adapter, attach
from tensloradist.backbones import FAMILIES
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.metrics import METRICS
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec
from tensloradist.tasks import TASKS, load

README = (Path(__file__).parents[1] / "README.md").read_text()
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


@pytest.mark.parametrize("head_layout", ["aligned", "official"])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_factorisation(registries, grouping, head_layout):
    import tensorly

    exec(BLOCKS[1], {})
    tensorly.set_backend("pytorch")
    shape = AttentionShape(12, 12, 3, 2)
    spec = AdapterSpec(grouping=grouping, factorization="my_cp", ranks=3, head_layout=head_layout)
    adapter = Adapter(spec, shape, dtype=torch.float64)
    assert torch.count_nonzero(adapter.delta("key", 1)) == 0
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
        for index, layout in enumerate(adapter.arrangement.tensors):
            factors = [adapter.tensors[index].factors[mode] for mode in layout.modes]
            full = tensorly.cp_to_tensor((None, factors))
            for p, projection in enumerate(layout.projections):
                for d, layer in enumerate(layout.layers):
                    part = full[..., d] if GROUPINGS[grouping].depth else full
                    part = part[..., p] if GROUPINGS[grouping].qkv else part
                    if GROUPINGS[grouping].att:
                        part = (part.transpose(1, 2) if head_layout == "aligned" else part).flatten(1)
                    torch.testing.assert_close(adapter.delta(projection, layer), part, rtol=1e-10, atol=1e-10)


def test_the_factorisation_can_be_budgeted(registries):
    from tensloradist.budget import count, isoparameter, lora_budget

    exec(BLOCKS[1], {})
    shape = AttentionShape(192, 192, 3, 12)
    adapter = AdapterSpec(grouping="qkv_depth", factorization="my_cp")
    solved = isoparameter(adapter, lora_budget(shape, 4), shape)
    assert isinstance(solved.ranks, int) and abs(count(solved, shape) / lora_budget(shape, 4) - 1) < 0.02


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
