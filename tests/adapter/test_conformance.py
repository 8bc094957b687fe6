"""What every registered factorisation keeps, a plugin's included, for every grouping that it can express."""

import math

import plugin_factorization  # noqa: F401 (registers itself)
import pytest
import torch

from tensloradist.adapter import Adapter
from tensloradist.budget import count, isoparameter, lora_budget
from tensloradist.errors import UserError
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.modes import GROUPINGS, Arrangement, AttentionShape
from tensloradist.spec import AdapterSpec

SHAPE = AttentionShape(12, 12, 3, 2)


def specs():
    for name in sorted(FACTORIZATIONS):
        if name == "lora":
            yield AdapterSpec(method="lora", ranks=3)
        else:
            yield from (AdapterSpec(grouping=g, factorization=name, ranks=3) for g in GROUPINGS)


@pytest.mark.parametrize("spec", list(specs()), ids=lambda s: f"{s.factorization}-{s.grouping}")
@pytest.mark.parametrize("head_layout", ["aligned", "official"])
def test_a_factorisation_keeps_its_promises(spec, head_layout):
    spec = spec.model_copy(update={"head_layout": head_layout})
    adapter = Adapter(spec, SHAPE, seed=1, dtype=torch.float64)
    assert adapter.num_parameters == count(spec, SHAPE)
    for layout, tensor in zip(adapter.arrangement.tensors, adapter.tensors, strict=True):
        named = tensor.parameters_by_name()
        assert set(layout.modes) <= set(named) | {"core"}
        assert torch.count_nonzero(named[tensor.zero]) == 0
        assert all(torch.count_nonzero(p) == p.numel() for name, p in named.items() if name != tensor.zero)
    for projection in SHAPE.projections:
        for layer in range(SHAPE.layers):
            assert torch.count_nonzero(adapter.delta(projection, layer)) == 0
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    deltas = [adapter.delta(p, layer) for p in SHAPE.projections for layer in range(SHAPE.layers)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(deltas) for b in deltas[:i])
    for projection in SHAPE.projections:
        left, right = adapter.pair(projection, 1)
        assert left.shape[1] == right.shape[0] <= adapter.ranks["input"]
    sum(d.square().sum() for d in deltas).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adapter.parameters())
    # The update is linear in the parameter that starts at zero, so a step from the start moves it in that direction.
    with torch.no_grad():
        for tensor in adapter.tensors:
            tensor.parameters_by_name()[tensor.zero].mul_(2)
    torch.testing.assert_close(adapter.delta("query", 0), 2 * deltas[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", list(specs()), ids=lambda s: f"{s.factorization}-{s.grouping}")
def test_every_factorisation_can_be_budgeted(spec):
    shape = AttentionShape(192, 192, 3, 12)
    solved = isoparameter(spec, lora_budget(shape, 4), shape)
    if not FACTORIZATIONS[spec.factorization].shared_rank:
        assert abs(count(solved, shape) / lora_budget(shape, 4) - 1) <= 0.02
        return
    ranks = [spec.model_copy(update={"ranks": r}) for r in range(1, 150)]
    nearest = min(abs(math.log(count(r, shape) / lora_budget(shape, 4))) for r in ranks)
    assert abs(math.log(count(solved, shape) / lora_budget(shape, 4))) <= nearest + 0.05


@pytest.mark.parametrize("spec", list(specs()), ids=lambda s: f"{s.factorization}-{s.grouping}")
def test_what_it_states_of_its_ranks_is_consistent(spec):
    """As the solver and the spectra need it: a cap and an unfolding for every rank, and counts that grow with each."""
    arrangement = Arrangement.of(spec, SHAPE)
    factorization = arrangement.factorization
    for layout in arrangement.tensors:
        names = factorization.rank_names(layout.modes)
        assert set(factorization.caps(layout.modes, layout.sizes)) == set(names)
        assert 1 <= factorization.largest_rank(layout.modes, layout.sizes) <= math.prod(layout.sizes)
        assert all(set() < set(factorization.unfolding(layout.modes, name)) < set(layout.modes) for name in names)
        equal = dict.fromkeys(names, 2)
        larger = [dict.fromkeys(names, 3)] if factorization.shared_rank else [{**equal, name: 3} for name in names]
        before = factorization.count(layout.modes, layout.sizes, equal)
        assert all(factorization.count(layout.modes, layout.sizes, ranks) > before for ranks in larger)


def test_a_plugin_without_folds_is_refused_where_they_are_needed():
    for fields in ({"fused": True}, {"dropout_on": "hidden", "dropout": 0.1}):
        spec = AdapterSpec(grouping="qkv_depth", factorization="plugin_cp", **fields)
        for ask in (count, Adapter):
            with pytest.raises(UserError, match="plugin_cp.*folds"):
                ask(spec, SHAPE)
