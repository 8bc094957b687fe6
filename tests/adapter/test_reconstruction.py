"""The pair against tensorly's reconstruction of the dense tensor, in float64, over random shapes and ranks."""

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tensloradist.adapter import Adapter
from tensloradist.budget import count
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec

tensorly.set_backend("pytorch")


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
    ranks = {m: draw(st.integers(1, 4)) for m in ("input", "output", "head_dim", "heads", "projection", "depth")}
    return shape, ranks


def dense(adapter, projection, layer):
    """One projection's update from tensorly's dense tensor, cut out and laid out by hand."""
    shape, grouping = adapter.shape, GROUPINGS[adapter.spec.grouping]
    p_index = shape.projections.index(projection)
    index = (0 if grouping.qkv else p_index) * (1 if grouping.depth else shape.layers) + (
        0 if grouping.depth else layer
    )
    tensor = adapter.tensors[index]
    modes = adapter.arrangement.modes
    full = tensorly.tucker_to_tensor((tensor.core, [tensor.factors[mode] for mode in modes]))
    if grouping.depth:
        full = full[..., layer]
    if grouping.qkv:
        full = full[..., p_index]
    heads = full.shape[-1]
    if grouping.att:
        official = adapter.spec.head_layout == "official"
        columns = (
            [full[:, e, h] for e in range(full.shape[1]) for h in range(heads)]
            if official
            else [full[:, e, h] for h in range(heads) for e in range(full.shape[1])]
        )
        full = torch.stack(columns, dim=1)
    kv = shape.heads_of(projection)
    if grouping.qkv and kv != shape.heads:
        repeats, dim = shape.heads // kv, shape.head_dim
        head = [full[:, h * dim : (h + 1) * dim] for h in range(shape.heads)]
        if adapter.spec.head_layout == "official":
            groups = [[head[g + kv * i] for i in range(repeats)] for g in range(kv)]
        else:
            groups = [[head[g * repeats + i] for i in range(repeats)] for g in range(kv)]
        full = torch.cat([torch.stack(group).mean(0) for group in groups], dim=1)
    return full.T if grouping.att and projection == "attention_output" else full


@pytest.mark.parametrize("head_layout", ["aligned", "official"])
@pytest.mark.parametrize("grouping", GROUPINGS)
@settings(max_examples=25, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_pair_equals_tensorly(grouping, head_layout, case, seed):
    shape, ranks = case
    if (
        head_layout == "official"
        and GROUPINGS[grouping].qkv
        and shape.kv_heads not in (None, shape.heads)
        and shape.heads != 4 * shape.kv_heads
    ):
        shape = AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers, shape.projections)
    ranks = {mode: ranks[mode] for mode in Adapter(AdapterSpec(grouping=grouping), shape).arrangement.modes}
    spec = AdapterSpec(
        grouping=grouping, ranks=ranks, head_layout=head_layout, projections=shape.projections, scale=0.5
    )
    adapter = Adapter(spec, shape, dtype=torch.float64)
    assert adapter.num_parameters == count(spec, shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=generator)
        for projection in shape.projections:
            for layer in range(shape.layers):
                left, right = adapter.pair(projection, layer)
                assert left.shape[1] == right.shape[0] <= ranks["input"] or projection == "attention_output"
                assert (left.shape[0], right.shape[1]) == shape.widths(projection)
                expected = dense(adapter, projection, layer)
                torch.testing.assert_close(left @ right, expected, rtol=1e-10, atol=1e-10)
                torch.testing.assert_close(adapter.delta(projection, layer), 0.5 * expected, rtol=1e-10, atol=1e-10)
