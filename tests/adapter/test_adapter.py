"""Properties of the adapter itself: zero at the start, seeded, refused where it cannot be expressed."""

import pytest
import torch

from tensloradist.adapter import Adapter
from tensloradist.errors import UserError
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec

SHAPE = AttentionShape(d_in=12, d_out=12, heads=3, layers=2)
SPECS = [
    AdapterSpec(method="lora", ranks=2),
    *(AdapterSpec(grouping=g, factorization=f, ranks=2) for f in ("tucker", "cp", "tt") for g in GROUPINGS),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.factorization}-{spec.grouping}")
@pytest.mark.parametrize("initialization", ["orthogonal", "kaiming_uniform", "normal"])
def test_update_is_exactly_zero_at_the_start_and_can_be_learned(spec, initialization):
    adapter = Adapter(spec.model_copy(update={"initialization": initialization}), SHAPE)
    total = torch.zeros(())
    for projection in SHAPE.projections:
        for layer in range(SHAPE.layers):
            delta = adapter.delta(projection, layer)
            assert torch.count_nonzero(delta) == 0
            total = total + (delta * torch.randn_like(delta)).sum()
    total.backward()
    zero = [p for tensor in adapter.tensors for name, p in tensor.parameters_by_name().items() if name == tensor.zero]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in zero)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.factorization}-{spec.grouping}")
def test_same_seed_same_values_and_siblings_differ(spec):
    first, again, other = Adapter(spec, SHAPE, seed=3), Adapter(spec, SHAPE, seed=3), Adapter(spec, SHAPE, seed=4)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    drawn = next(name for name in first.tensors[0].parameters_by_name() if name != first.tensors[0].zero)
    inputs, others = ([t.parameters_by_name()[drawn] for t in adapter.tensors] for adapter in (first, other))
    assert not torch.equal(inputs[0], others[0])
    assert all(not torch.equal(inputs[0], other_input) for other_input in inputs[1:])
    identical = Adapter(spec.model_copy(update={"sibling_draws": "identical"}), SHAPE, seed=3)
    same = [t.parameters_by_name()[drawn] for t in identical.tensors]
    assert all(torch.equal(same[0], value) for value in same)


def test_initial_values_do_not_depend_on_dtype():
    single, double = Adapter(SPECS[3], SHAPE, seed=1), Adapter(SPECS[3], SHAPE, seed=1, dtype=torch.float64)
    for a, b in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(a, b.float())


def test_tensors_are_projection_major():
    adapter = Adapter(AdapterSpec(grouping="att", ranks=2), SHAPE)
    order = [(layout.projections[0], layout.layers[0]) for layout in adapter.arrangement.tensors]
    assert order == [(p, layer) for p in ("query", "key", "value") for layer in (0, 1)]


def test_kaiming_bounds_follow_peft_for_lora_and_the_official_code_for_tucker():
    shape = AttentionShape(768, 768, 12, 1)
    lora = Adapter(AdapterSpec(method="lora", ranks=4), shape).tensors[0].factors["input"]
    tucker = Adapter(AdapterSpec(grouping="qkv", ranks=4, initialization="kaiming_uniform"), shape)
    assert 0.035 < lora.abs().max() <= 768**-0.5
    assert 0.49 < tucker.tensors[0].factors["input"].abs().max() <= 0.5


def test_built_on_meta_without_values():
    with torch.device("meta"):
        adapter = Adapter(SPECS[1], AttentionShape(4096, 4096, 32, 32, kv_heads=8))
    assert all(parameter.is_meta for parameter in adapter.parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Adapter(AdapterSpec(grouping="qkv", ranks={"input": 2}), SHAPE), "no rank for"),
        (
            lambda: Adapter(
                AdapterSpec(grouping="qkv", ranks={"input": 2, "output": 2, "projection": 2, "depth": 1}), SHAPE
            ),
            "are not modes",
        ),
        (lambda: Adapter(AdapterSpec(method="lora", ranks={"input": 2, "output": 3}), SHAPE), "one rank"),
        (lambda: Adapter(AdapterSpec(grouping="qkv", factorization="tuker"), SHAPE), "Did you mean 'tucker'"),
        (
            lambda: Adapter(
                AdapterSpec(grouping="qkv", factorization="cp", ranks={"input": 2, "output": 2, "projection": 3}), SHAPE
            ),
            r"one rank for all modes \['input', 'output', 'projection'\]",
        ),
        (
            lambda: Adapter(
                AdapterSpec(grouping="qkv", factorization="tt", ranks={"input": 2, "projection": 2, "output": 2}), SHAPE
            ),
            r"\['output'\] are not bonds",
        ),
        (
            lambda: Adapter(AdapterSpec(grouping="qkv", factorization="tt", mode_order=("input", "output")), SHAPE),
            r"mode_order: .* must name each of the modes",
        ),
        (lambda: Adapter(AdapterSpec(grouping="qkv", fused=True), SHAPE), "does not stack both projection and depth"),
        (
            lambda: Adapter(AdapterSpec(method="lorta_peft"), AttentionShape(8, 12, 3, 1)),
            "all must be square, but query is 8 × 12",
        ),
        (
            lambda: Adapter(AdapterSpec(method="lorta_peft"), AttentionShape(12, 12, 4, 1, kv_heads=2)),
            "2 key/value heads",
        ),
        (
            lambda: Adapter(
                AdapterSpec(method="fact_tt"),
                AttentionShape(8, 12, 3, 1, ("query", "key", "value", "attention_output")),
            ),
            "shapes differ",
        ),
        (
            lambda: Adapter(
                AdapterSpec(method="cara"), AttentionShape(8, 12, 3, 1, ("query", "key", "value", "attention_output"))
            ),
            "needs square matrices",
        ),
        (lambda: AttentionShape(12, 12, 5, 1), "do not divide"),
        (lambda: AttentionShape(12, 12, 4, 1, kv_heads=3), "do not divide"),
        (lambda: AttentionShape(12, 12, 3, 1, projections=("quary",)), "Did you mean 'query'"),
        (
            lambda: Adapter(AdapterSpec(grouping="qkv"), AttentionShape(8, 12, 3, 1, ("query", "attention_output"))),
            "shapes differ",
        ),
        (
            lambda: Adapter(
                AdapterSpec(grouping="qkv", head_layout="official"), AttentionShape(12, 12, 6, 1, kv_heads=3)
            ),
            "averages over 4",
        ),
        (lambda: Adapter(SPECS[1], SHAPE).pair("query", 2), "not within 0..1"),
        (lambda: Adapter(SPECS[1], SHAPE).pair("querry", 0), "Did you mean 'query'"),
        (lambda: Adapter(SPECS[1], SHAPE).merge(), "not attached"),
    ],
)
def test_refusals_give_the_reason(make, says):
    with pytest.raises(UserError, match=says):
        make()
