"""How the members relate: weights copied from one into another give the same updates."""

import pytest
import torch

from tensloradist.adapter import Adapter
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec

SHAPE = AttentionShape(12, 12, 3, 4)
R = 3


def member(shape=SHAPE, **fields):
    adapter = Adapter(AdapterSpec(**fields), shape, dtype=torch.float64)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


@torch.no_grad()
def fill(adapter, index=0, **values):
    named = adapter.tensors[index].parameters_by_name()
    assert set(values) == set(named)
    for name, value in values.items():
        named[name].copy_(value)


def assert_same_updates(ours, theirs, factor=1.0):
    with torch.no_grad():
        for projection in ours.shape.projections:
            for layer in range(ours.shape.layers):
                expected = theirs.delta(projection, layer)
                assert expected.abs().max() > 1e-3
                torch.testing.assert_close(ours.delta(projection, layer) * factor, expected, rtol=1e-10, atol=1e-10)


def test_lotr_is_fact_tt_with_another_scale():
    fact, lotr = member(method="fact_tt", ranks=R), member(method="lotr", ranks=R, alpha=1.0)
    fill(lotr, **fact.tensors[0].parameters_by_name())
    assert_same_updates(fact, lotr, factor=1 / R)


@pytest.mark.parametrize("method", ["fact_tt", "lotr"])
def test_fact_tt_and_lotr_are_depth_tucker_for_each_projection_with_an_identity_depth_factor(method):
    fact = member(method=method, ranks=R, scale=1.0)
    tucker = member(grouping="depth", ranks={"input": R, "output": R, "depth": SHAPE.layers})
    train = fact.tensors[0].cores
    blocks = train["block"].unflatten(1, (SHAPE.layers, 3))  # input bond, layer, projection, output bond
    for index in range(3):
        fill(
            tucker,
            index,
            input=train["input"][0],
            output=train["output"][..., 0].T,
            depth=torch.eye(SHAPE.layers),
            core=blocks[:, :, index].transpose(1, 2),
        )
    assert_same_updates(tucker, fact)


def test_a_fused_train_is_a_fused_tucker_with_an_identity_block_factor():
    fact = member(method="fact_tt", ranks=R)
    blocks = 3 * SHAPE.layers
    tucker = member(grouping="qkv_depth", fused=True, ranks={"input": R, "output": R, "block": blocks})
    train = fact.tensors[0].cores
    core = train["block"].transpose(1, 2)
    fill(tucker, input=train["input"][0], output=train["output"][..., 0].T, block=torch.eye(blocks), core=core)
    assert_same_updates(tucker, fact)


def test_fact_tk_is_the_fused_tucker():
    fact = member(method="fact_tk", ranks=R)
    tucker = member(grouping="qkv_depth", fused=True, ranks=R)
    fill(tucker, **fact.tensors[0].parameters_by_name())
    assert_same_updates(tucker, fact)


@pytest.mark.parametrize("projections", [("query", "key", "value"), ("query", "key", "value", "attention_output")])
def test_lorta_is_the_cp_of_att_qkv_depth_with_a_fourth_projection(projections):
    shape = AttentionShape(12, 12, 3, 4, projections)
    lorta = member(shape, method="lorta", ranks=R, projections=projections, scale=1.0)
    side = "output" if len(projections) == 4 else "own"
    cp = member(shape, grouping="att_qkv_depth", factorization="cp", ranks=R, projections=projections, head_side=side)
    fill(cp, **lorta.tensors[0].parameters_by_name())
    assert_same_updates(cp, lorta)


def test_lortas_two_codes_are_transposes_of_each_other():
    first, second = member(method="lorta", ranks=R, scale=1.0), member(method="lorta_peft", ranks=R, scale=1.0)
    fill(second, **first.tensors[0].parameters_by_name())
    for layer in range(SHAPE.layers):
        torch.testing.assert_close(first.delta("key", layer), second.delta("key", layer).T, rtol=1e-10, atol=1e-10)


def test_cara_with_weights_of_one_is_a_fused_cp():
    cp = member(grouping="att_qkv_depth", factorization="cp", fused=True, ranks=R)
    cara = member(method="cara", ranks=R)
    fill(cara, **cp.tensors[0].parameters_by_name(), weights=torch.ones(R))
    assert_same_updates(cp, cara)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_cp_is_tucker_with_a_diagonal_core(grouping):
    cp = member(grouping=grouping, factorization="cp", ranks=R)
    tucker = member(grouping=grouping, ranks=R)
    for index, tensor in enumerate(cp.tensors):
        core = torch.zeros([R] * len(tensor.factors))
        for r in range(R):
            core[(r,) * core.ndim] = 1.0
        fill(tucker, index, **tensor.parameters_by_name(), core=core)
    assert_same_updates(tucker, cp)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_cp_is_a_tensor_train_with_diagonal_cores(grouping):
    cp, train = (member(grouping=grouping, factorization=f, ranks=R) for f in ("cp", "tt"))
    for index, (layout, tensor) in enumerate(zip(train.arrangement.tensors, cp.tensors, strict=True)):
        cores = {mode: torch.diag_embed(tensor.factors[mode]).transpose(0, 1) for mode in layout.modes}
        first, last = layout.modes[0], layout.modes[-1]
        cores[first] = tensor.factors[first][None]
        cores[last] = tensor.factors[last].T[..., None]
        fill(train, index, **cores)
    assert_same_updates(train, cp)


@pytest.mark.parametrize(
    "fields",
    [{"method": "metatt_5d"}, {"method": "cara"}, {"grouping": "att_qkv", "factorization": "tt"}, {"grouping": "att"}],
    ids=str,
)
def test_every_member_is_a_lora_of_its_pairs(fields):
    other = member(ranks=R, **fields)
    lora = member(method="lora", ranks=R)
    for index, layout in enumerate(lora.arrangement.tensors):
        left, right = other.pair(layout.projections[0], layout.layers[0])
        fill(lora, index, input=left, output=right.T)
    assert_same_updates(lora, other)
