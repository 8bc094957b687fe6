"""A fused layer computes with one pair what its projections' own pairs give, and few operations do it."""

import itertools
import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tensloradist._torchvision  # noqa: F401 (before timm)
from tensloradist.adapter import Adapter, attach
from tensloradist.adapter.joined import with_joined
from tensloradist.adapter.projection import AdaptedLinear
from tensloradist.backbones import FAMILIES
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec

QKV = ("query", "key", "value")
LAYERS = 3
MEMBERS = {
    "lora": {"method": "lora"},
    **{grouping: {"grouping": grouping} for grouping in GROUPINGS},
    "fused": {"grouping": "qkv_depth", "fused": True},
    "cp": {"grouping": "att_qkv_depth", "factorization": "cp"},
    "tt": {"grouping": "qkv_depth", "factorization": "tt"},
    "input dropout": {"grouping": "depth", "dropout": 0.4},
    "hidden dropout": {"method": "lora", "dropout": 0.4, "dropout_on": "hidden"},
    "hidden dropout, shared right": {"method": "fact_tt", "dropout": 0.4},
    # The train's last core is the projection's: its input side serves all three, and each has a mask of its own.
    "hidden dropout, shared left": {
        "grouping": "qkv_depth",
        "factorization": "tt",
        "mode_order": ("depth", "input", "output", "projection"),
        "dropout": 0.4,
        "dropout_on": "hidden",
    },
    "transposed": {"method": "lorta_peft"},
    "query and value": {"method": "lora", "projections": ("query", "value")},
    "value of a tensor": {"grouping": "att_qkv_depth", "projections": ("value",)},
}


def layers(member, kv_heads=None):
    """(adapter, its fused layers, the same as layers of one projection), in float64."""
    shape = AttentionShape(8, 8, 4, LAYERS, MEMBERS[member].get("projections", QKV), kv_heads)
    adapter = Adapter(AdapterSpec(**MEMBERS[member], ranks=2, scale=0.7), shape, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    widths = tuple(shape.widths(projection)[1] for projection in QKV)
    names = tuple(projection if projection in shape.projections else None for projection in QKV)
    fused, separate = [], []
    for layer in range(LAYERS):
        base = torch.nn.Linear(8, sum(widths)).double().requires_grad_(False)
        fused.append(AdaptedLinear(base, adapter, names, widths, layer))
        parts = []
        for name, width, weight, bias in zip(
            names, widths, base.weight.split(widths), base.bias.split(widths), strict=True
        ):
            part = torch.nn.Linear(8, width).double()
            part.weight, part.bias = torch.nn.Parameter(weight, False), torch.nn.Parameter(bias, False)
            parts.append(part if name is None else AdaptedLinear(part, adapter, (name,), (width,), layer))
        separate.append(parts)
    return adapter, fused, separate


def outputs_and_gradients(adapter, call, rows):
    """Of all layers in turn, each of which begins with the same random numbers."""
    adapted = [part for part in itertools.chain(*rows) if isinstance(part, AdaptedLinear)]
    pairs = with_joined(adapter.forward(), adapted)
    for part in adapted:
        part.receive(pairs, sys._getframe())
    x = torch.randn(5, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    results = [call(row, x) for row in rows]
    weights = torch.arange(results[0].numel(), dtype=torch.float64).view_as(results[0]).sin()
    loss = sum((weights * result.square()).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, [x, *adapter.parameters()])]


def separately(parts, x):
    """As layers of their own; dropout on the input is one mask of a fused layer."""
    state, results = torch.get_rng_state(), []
    for part in parts:
        if isinstance(part, AdaptedLinear) and part.dropout_on == "input" and part.dropout:
            torch.set_rng_state(state)
        results.append(part(x))
    return torch.cat(results, dim=-1)


# Under grouped-query attention neither of the two has a tensor.
GROUPED_QUERY = [member for member in MEMBERS if member not in ("transposed", "value of a tensor")]


@pytest.mark.parametrize(
    ("member", "kv_heads"), [*((member, None) for member in MEMBERS), *((member, 2) for member in GROUPED_QUERY)]
)
def test_a_fused_layer_gives_what_separate_layers_give(member, kv_heads):
    adapter, fused, separate = layers(member, kv_heads)
    torch.manual_seed(2)
    found = outputs_and_gradients(adapter, lambda row, x: row[0](x), [[layer] for layer in fused])
    torch.manual_seed(2)
    expected = outputs_and_gradients(adapter, separately, separate)
    assert all(value.abs().max() > 0 for value in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


class Operations(TorchDispatchMode):
    """What is computed, and the shapes of what is cast."""

    def __init__(self):
        super().__init__()
        self.names, self.cast = Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.names[name] += 1
        if name == "_to_copy":
            self.cast.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("family", "path"), [("timm_vit", "blocks.1.attn.qkv"), ("bert", None)])
def test_autocast_rounds_the_input_of_a_projection_once(family, path):
    model, _ = FAMILIES[family].example()
    adapter = attach(model, AdapterSpec(method="lora", ranks=2))
    path = path or next(iter(adapter.attachment.wrapped))
    layer = adapter.attachment.wrapped[path]
    layer.base.to(torch.bfloat16)  # as a run in bf16 keeps it
    x = torch.randn(3, 5, layer.in_features, requires_grad=True).clone()  # autocast remembers what it casts of a leaf
    with torch.autocast("cpu", torch.bfloat16), Operations() as forward:
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert forward.cast.count((3, 5, layer.in_features)) == 1, forward.cast
    products = forward.names["mm"] + forward.names["bmm"] + forward.names["addmm"]
    assert products == 3, "the frozen product, x A, and B's"


def operations_of_pairs(member, layers, kv_heads=None):
    """Operations of all pairs and of their gradients."""
    adapter = Adapter(AdapterSpec(**MEMBERS[member], ranks=2), AttentionShape(8, 8, 4, layers, kv_heads=kv_heads))
    with Operations() as done:
        sum(left.sum() + right.sum() for left, right in adapter.forward().values()).backward()
    return done.names


@pytest.mark.parametrize("member", ["lora", "att", "qkv", "att_qkv"])
def test_a_gradient_is_copied_once_and_heads_are_averaged_once_however_many_layers(member):
    few, many = (operations_of_pairs(member, layers, kv_heads=2) for layers in (2, 6))
    for name in ("copy_", "clone", "mean"):
        assert few[name] == many[name], (name, few[name], many[name])
