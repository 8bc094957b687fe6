"""The isoparameter solver: within tolerance where integers allow it, never beyond a mode's size, and reproducible."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensloradist.budget import STRATEGIES, count, isoparameter, isorank, lora_budget, resolve_ranks, surplus_ranks
from tensloradist.errors import UserError
from tensloradist.modes import GROUPINGS, Arrangement, AttentionShape
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec

BACKBONES = {
    "vit_base": (768, 12, 12),
    "deit_tiny": (192, 3, 12),
    "minilm_l6": (384, 12, 6),
    "vit_large": (1024, 16, 24),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", PRESETS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_preset_can_be_solved_for(backbone, method, strategy):
    d, heads, layers = BACKBONES[backbone]
    for targets in ("original", ("query", "key", "value")):
        adapter = AdapterSpec(method=method, targets=targets)
        shape = AttentionShape(d, d, heads, layers, adapter.projections)
        budget = lora_budget(shape, 4)
        solved = isoparameter(adapter, budget, shape, strategy)
        step = 0.0
        if adapter.factorization == "cp":  # one rank: what the next one adds cannot be had in part
            rank = resolve_ranks(solved, shape)["input"]
            step = (count(isorank(adapter, rank + 1, shape), shape) - count(solved, shape)) / budget / 2
        assert abs(count(solved, shape) / budget - 1) <= max(0.02, step)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_train_meets_lora_r4_with_bonds_as_equal_as_they_can_be(backbone, grouping, strategy):
    d, heads, layers = BACKBONES[backbone]
    shape = AttentionShape(d, d, heads, layers)
    budget = lora_budget(shape, 4)
    solved = isoparameter(AdapterSpec(grouping=grouping, factorization="tt"), budget, shape, strategy)
    ranks = list(resolve_ranks(solved, shape).values())
    assert abs(count(solved, shape) / budget - 1) <= 0.02
    sizes = Arrangement.of(solved, shape).tensors[0].sizes
    caps = [min(math.prod(sizes[: i + 1]), math.prod(sizes[i + 1 :])) for i in range(len(ranks))]
    assert all(rank <= cap for rank, cap in zip(ranks, caps, strict=True))
    assert max(min(max(ranks), cap) - rank for rank, cap in zip(ranks, caps, strict=True)) <= (
        10 if len(ranks) == 2 else 5
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_grouping_meets_lora_r4_within_two_percent(backbone, grouping, strategy):
    d, heads, layers = BACKBONES[backbone]
    shape = AttentionShape(d, d, heads, layers)
    budget = lora_budget(shape, 4)
    solved = isoparameter(AdapterSpec(grouping=grouping), budget, shape, strategy)
    assert abs(count(solved, shape) / budget - 1) <= 0.02
    ranks = resolve_ranks(solved, shape)
    sizes = dict(zip(*(lambda t: (t.modes, t.sizes))(Arrangement(grouping, shape).tensors[0]), strict=True))
    assert all(1 <= ranks[mode] <= sizes[mode] for mode in ranks)
    if strategy == "balanced":
        assert all(ranks[m] == sizes[m] for m in ("heads", "projection", "depth") if m in ranks)


@settings(max_examples=60)
@given(
    grouping=st.sampled_from(sorted(GROUPINGS)),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    layers=st.integers(1, 3),
    d_in=st.integers(1, 10),
    rank=st.integers(1, 3),
    tolerance=st.sampled_from([0.02, 0.1]),
)
def test_balanced_is_the_most_equal_within_tolerance_by_exhaustive_search(
    grouping, heads, head_dim, layers, d_in, rank, tolerance
):
    shape = AttentionShape(d_in, heads * head_dim, heads, layers)
    budget = lora_budget(shape, rank)
    adapter = AdapterSpec(grouping=grouping)
    layout = Arrangement(grouping, shape).tensors[0]
    sizes = dict(zip(layout.modes, layout.sizes, strict=True))
    large = [m for m in sizes if m in ("input", "output", "head_dim")]

    def spread(ranks):
        top = max(ranks[m] for m in large)
        return max(min(top, sizes[m]) - ranks[m] for m in large)

    fitting = []
    for values in itertools.product(*(range(1, sizes[m] + 1) for m in large)):
        ranks = {m: sizes[m] for m in sizes} | dict(zip(large, values, strict=True))
        residual = abs(count(adapter.model_copy(update={"ranks": ranks}), shape) / budget - 1)
        if residual <= tolerance:
            fitting.append((spread(ranks), residual))
    solved = resolve_ranks(isoparameter(adapter, budget, shape, tolerance=tolerance), shape)
    residual = abs(count(adapter.model_copy(update={"ranks": solved}), shape) / budget - 1)
    if fitting:
        assert residual <= tolerance
        assert spread(solved) == min(fitting)[0]


@pytest.mark.parametrize(("d", "heads", "layers"), [(24, 2, 3), (16, 4, 2)])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("grouping", sorted(GROUPINGS))
def test_uniform_is_the_most_equal_within_tolerance_by_exhaustive_search(grouping, rank, d, heads, layers):
    shape = AttentionShape(d, d, heads, layers)
    budget, adapter = lora_budget(shape, rank), AdapterSpec(grouping=grouping)
    layout = Arrangement(grouping, shape).tensors[0]
    tensors = len(Arrangement(grouping, shape).tensors)
    sizes = np.array(layout.sizes)
    ranks = np.stack(np.meshgrid(*(np.arange(1, size + 1) for size in sizes), indexing="ij"), -1).reshape(
        -1, len(sizes)
    )
    counts = tensors * (ranks @ sizes + ranks.prod(1))
    fitting = ranks[np.abs(counts / budget - 1) <= 0.02]
    solved = resolve_ranks(isoparameter(adapter, budget, shape, "uniform"), shape)
    found = np.array([[solved[mode] for mode in layout.modes]])
    if not len(fitting):
        nearest = np.abs(counts / budget - 1).min()
        assert abs(count(adapter.model_copy(update={"ranks": solved}), shape) / budget - 1) >= nearest
        return
    assert any((found == fitting).all(1)), "within the tolerance"

    def spread(some):
        return (np.minimum(some.max(1, keepdims=True), sizes) - some).max(1)

    assert spread(found)[0] == spread(fitting).min()


def test_pinned_modes_stay():
    shape = AttentionShape(192, 192, 3, 12)
    budget = lora_budget(shape, 4)
    solved = isoparameter(AdapterSpec(grouping="qkv_depth"), budget, shape, pinned={"depth": 4, "input": 20})
    ranks = resolve_ranks(solved, shape)
    assert (ranks["depth"], ranks["input"]) == (4, 20)
    assert abs(count(solved, shape) / budget - 1) <= 0.02


def test_isorank_keeps_r_beyond_a_modes_size():
    shape = AttentionShape(192, 192, 3, 12)
    assert resolve_ranks(isorank(AdapterSpec(grouping="att_qkv"), 8, shape), shape) == dict.fromkeys(
        ("input", "head_dim", "heads", "projection"), 8
    )


def test_lora_at_its_own_budget_is_lora():
    shape = AttentionShape(64, 96, 8, 3, kv_heads=2)
    for rank in (1, 4, 7):
        assert isoparameter(AdapterSpec(method="lora"), lora_budget(shape, rank), shape).ranks == rank
        assert count(AdapterSpec(method="lora", ranks=rank), shape) == lora_budget(shape, rank)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"strategy": "balance"}, "Did you mean 'balanced'"),
        ({"pinned": {"heads": 1}}, "no rank 'heads'"),
        ({"pinned": {"depth": 13}}, r"not within 1\.\.12"),
    ],
)
def test_refusals(arguments, says):
    shape = AttentionShape(192, 192, 3, 12)
    with pytest.raises(UserError, match=says):
        isoparameter(AdapterSpec(grouping="qkv_depth"), 55296, shape, **arguments)


def test_bonds_and_blocks_can_be_pinned():
    shape = AttentionShape(192, 192, 3, 12)
    budget = lora_budget(shape, 4)
    for adapter, pinned in (
        (AdapterSpec(grouping="qkv_depth", factorization="tt"), {"depth": 12}),
        (AdapterSpec(method="fact_tk"), {"block": 5}),
        (AdapterSpec(method="fact_tt"), {"input": 30}),
    ):
        solved = isoparameter(adapter, budget, shape, pinned=pinned)
        assert pinned.items() <= resolve_ranks(solved, shape).items()
        assert abs(count(solved, shape) / budget - 1) <= 0.03
    with pytest.raises(UserError, match="no rank 'output'; its ranks are"):
        isoparameter(AdapterSpec(grouping="qkv_depth", factorization="tt"), budget, shape, pinned={"output": 3})


def test_references_have_no_ranks_and_stay_what_they_are():
    shape = AttentionShape(192, 192, 3, 12)
    for method in ("full", "head"):
        adapter = AdapterSpec(method=method)
        assert isorank(adapter, 8, shape) == isoparameter(adapter, 1000, shape) == adapter
        assert resolve_ranks(adapter, shape) == {} and count(adapter, shape) == 0


def test_a_shared_rank_cannot_be_pinned_twice():
    cp = AdapterSpec(grouping="qkv_depth", factorization="cp")
    shape = AttentionShape(192, 192, 3, 12)
    assert set(resolve_ranks(isoparameter(cp, 5000, shape, pinned={"depth": 4}), shape).values()) == {4}
    with pytest.raises(UserError, match="all modes of cp share one rank; pin one of them"):
        isoparameter(cp, 5000, shape, pinned={"depth": 4, "input": 5})


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ({"method": "lora", "ranks": 48}, None),
        ({"method": "lora", "ranks": 49}, "49 exceeds 48, the largest useful rank for the adapted matrices"),
        ({"grouping": "att_qkv_depth", "ranks": 48}, None),  # isorank: every mode gets the rank, small ones too
        ({"grouping": "att_qkv_depth", "ranks": 49}, "49 exceeds 48, "),
        ({"grouping": "depth", "ranks": {"input": 48, "output": 4, "depth": 3}}, None),
        ({"grouping": "depth", "ranks": {"input": 49, "output": 4, "depth": 4}}, "49 of input exceeds 48, 4 of depth "),
        ({"grouping": "qkv", "factorization": "cp", "ranks": 144}, None),  # a CP can have a rank beyond its modes
        ({"grouping": "qkv", "factorization": "cp", "ranks": 145}, "145 exceeds 144, "),
        (
            {"grouping": "qkv", "factorization": "tt", "ranks": {"input": 4, "projection": 49}},
            "49 of projection exceeds",
        ),
        ({"method": "full"}, None),
        ({"method": "fact_tt", "ranks": 49}, "49 exceeds 48, "),
    ],
)
def test_ranks_beyond_what_a_matrix_or_a_mode_can_have_are_said(adapter, says):
    found = surplus_ranks(AdapterSpec.model_validate(adapter), AttentionShape(48, 48, 4, 3))
    assert found is None if says is None else found is not None and found.startswith(f"ranks: {says}"), found


def test_a_rank_beyond_the_keys_few_heads_is_said_of_some_matrices():
    found = surplus_ranks(AdapterSpec(method="lora", ranks=20), AttentionShape(48, 48, 4, 3, kv_heads=1))
    assert found is not None and "20 exceeds 12, the largest useful rank for some of the adapted" in found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_solver_never_has_surplus_ranks(strategy):
    shape = AttentionShape(48, 48, 4, 3)
    for grouping in GROUPINGS:
        solved = isoparameter(AdapterSpec(grouping=grouping), lora_budget(shape, 40), shape, strategy)
        assert surplus_ranks(solved, shape) is None
