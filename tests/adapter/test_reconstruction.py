"""The pair against tensorly's reconstruction of the dense tensor, in float64, over random shapes and ranks."""

import pytest
import torch
from dense import dense
from hypothesis import given, settings
from hypothesis import strategies as st

from tensloradist.adapter import Adapter
from tensloradist.budget import count
from tensloradist.errors import UserError
from tensloradist.modes import GROUPINGS, Arrangement, AttentionShape
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec


def randomize(adapter, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=generator)


@st.composite
def cases(draw):
    heads, head_dim = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kv_heads = draw(st.sampled_from([None, *(k for k in range(1, heads + 1) if heads % k == 0)]))
    projections = draw(
        st.sampled_from(
            [
                ("query", "key", "value"),
                ("query", "value"),
                ("value", "query", "key"),
                ("query", "key", "value", "attention_output"),
            ]
        )
    )
    d_out = heads * head_dim
    square = "attention_output" in projections
    d_in = d_out if square else draw(st.integers(1, 9))
    shape = AttentionShape(d_in, d_out, heads, draw(st.integers(1, 4)), projections, kv_heads)
    ranks = {
        m: draw(st.integers(1, 4)) for m in ("input", "output", "head_dim", "heads", "projection", "depth", "block")
    }
    return shape, ranks


# Factorisation and whether projection and depth are one fused mode, for the groupings that have both.
MEMBERS = [
    (factorization, grouping, fused)
    for factorization in ("tucker", "cp", "tt")
    for grouping in GROUPINGS
    for fused in ((False, True) if "qkv" in grouping and "depth" in grouping else (False,))
]


@pytest.mark.parametrize("head_layout", ["aligned", "official"])
@pytest.mark.parametrize(("factorization", "grouping", "fused"), MEMBERS)
@settings(max_examples=12)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_pair_equals_tensorly(factorization, grouping, fused, head_layout, case, seed):
    shape, ranks = case
    if (
        head_layout == "official"
        and GROUPINGS[grouping].qkv
        and shape.kv_heads not in (None, shape.heads)
        and shape.heads != 4 * shape.kv_heads
    ):
        shape = AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers, shape.projections)
    spec = AdapterSpec(
        grouping=grouping,
        factorization=factorization,
        fused=fused,
        head_layout=head_layout,
        projections=shape.projections,
        scale=0.5,
    )
    names = Arrangement.of(spec, shape).rank_names
    spec = spec.model_copy(
        update={"ranks": ranks["input"] if factorization == "cp" else {mode: ranks[mode] for mode in names}}
    )
    adapter = Adapter(spec, shape, dtype=torch.float64)
    assert adapter.num_parameters == count(spec, shape)
    randomize(adapter, seed)
    with torch.no_grad():
        for (projection, layer), (left, right) in adapter().items():
            assert left.shape[1] == right.shape[0] <= ranks["input"] or projection == "attention_output"
            assert (left.shape[0], right.shape[1]) == shape.widths(projection)
            expected = dense(adapter, projection, layer)
            torch.testing.assert_close(left @ right, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(adapter.delta(projection, layer), 0.5 * expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", PRESETS)
@pytest.mark.parametrize("targets", ["original", ("query", "key", "value")])
@settings(max_examples=8)
@given(
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 4),
    layers=st.integers(1, 3),
    rank=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_presets_equal_tensorly(method, targets, heads, head_dim, layers, rank, seed):
    spec = AdapterSpec(method=method, ranks=rank, targets=targets)
    shape = AttentionShape(heads * head_dim, heads * head_dim, heads, layers, spec.projections)
    adapter = Adapter(spec, shape, dtype=torch.float64)
    assert adapter.num_parameters == count(spec, shape)
    randomize(adapter, seed)
    with torch.no_grad():
        for (projection, layer), (left, right) in adapter().items():
            assert left.shape[1] == right.shape[0] == rank
            expected = dense(adapter, projection, layer)
            torch.testing.assert_close(left @ right, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("grouping", ["qkv_depth", "att_qkv_depth", "att"])
@settings(max_examples=10)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_a_train_in_any_order_equals_tensorly(grouping, data, seed):
    shape = AttentionShape(5, 6, 3, 2)
    modes = Arrangement(grouping, shape).modes
    order = tuple(data.draw(st.permutations(modes)))
    outputs = [order.index(mode) for mode in order if mode in ("output", "heads", "head_dim")]
    ranks = {mode: data.draw(st.integers(1, 3)) for mode in order[:-1]}
    layout = data.draw(st.sampled_from(["aligned", "official"]))
    spec = AdapterSpec(grouping=grouping, factorization="tt", mode_order=order, ranks=ranks, head_layout=layout)
    if min(outputs) < order.index("input") < max(outputs):
        with pytest.raises(UserError, match="between heads and head_dim"):
            Adapter(spec, shape)
        return
    adapter = Adapter(spec, shape, dtype=torch.float64)
    assert adapter.num_parameters == count(spec, shape)
    assert all(torch.count_nonzero(left @ right) == 0 for left, right in adapter().values())
    randomize(adapter, seed)
    with torch.no_grad():
        for (projection, layer), (left, right) in adapter().items():
            torch.testing.assert_close(left @ right, dense(adapter, projection, layer), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "spec",
    [
        *(AdapterSpec(grouping=g, factorization=f, fused=u, ranks=2) for f, g, u in MEMBERS),
        *(AdapterSpec(method=method, ranks=2, targets="original") for method in PRESETS),
    ],
    ids=lambda s: f"{s.method}-{s.factorization}-{s.grouping}-{s.fused}",
)
def test_gradients_equal_autograds_through_the_dense_reconstruction(spec):
    shape = AttentionShape(6, 6, 3, 2, spec.projections)
    adapter = Adapter(spec, shape, dtype=torch.float64)
    randomize(adapter, 1)
    generator = torch.Generator().manual_seed(2)
    wanted = {key: torch.randn(shape.widths(key[0]), generator=generator, dtype=torch.float64) for key in adapter()}
    parameters = [p for tensor in adapter.tensors for p in tensor.parameters()]
    pairs = sum(((left @ right) * wanted[key]).sum() for key, (left, right) in adapter().items())
    whole = sum((dense(adapter, *key) * wanted[key]).sum() for key in wanted)
    for ours, reference in zip(
        torch.autograd.grad(pairs, parameters), torch.autograd.grad(whole, parameters), strict=True
    ):
        assert reference.abs().max() > 0
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
