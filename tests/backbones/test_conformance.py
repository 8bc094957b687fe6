"""What every registered backbone family must satisfy, a plugin's included."""

import copy

import plugin_family  # noqa: F401 (registers itself)
import pytest
import torch
from torch import nn

from tensloradist.adapter import attach
from tensloradist.backbones import FAMILIES, QKV, family_of, initialize_head
from tensloradist.spec import AdapterSpec

ALL = (*QKV, "attention_output")


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]


def test_a_model_belongs_to_its_own_family_alone(family):
    model, _ = family.example()
    assert family_of(model) is family
    assert [other.name for other in FAMILIES.values() if other.matches(model)] == [family.name]


def test_logits_have_one_row_an_example_and_one_column_a_class(family):
    model, inputs = family.example()
    rows = next(iter(inputs.values())).shape[0]
    assert family.logits(model, inputs).shape == (rows, 4)


def test_sites_are_linear_layers_of_the_shapes_widths_each_projection_once_a_layer(family):
    model, _ = family.example()
    shape = family.shape(model, ALL)
    seen = []
    for site in family.sites(model):
        linear = model.get_submodule(site.path)
        assert isinstance(linear, nn.Linear)
        assert linear.in_features == shape.widths(site.projections[0])[0]
        assert linear.out_features == sum(shape.widths(projection)[1] for projection in site.projections)
        seen += [(site.layer, projection) for projection in site.projections]
    assert sorted(seen) == sorted((layer, p) for layer in range(shape.layers) for p in ALL)


def test_the_shape_on_the_meta_device_is_that_of_the_real_model(family):
    model, _ = family.example()
    assert family.shape(copy.deepcopy(model).to("meta"), QKV) == family.shape(model, QKV)


def test_every_projection_takes_part_in_the_logits(family):
    model, inputs = family.example()
    family.logits(model, inputs).square().sum().backward()
    for site in family.sites(model):
        weight = model.get_submodule(site.path).weight
        assert weight.grad is not None and weight.grad.norm() > 0, site.path


def test_the_head_has_parameters_and_is_not_the_backbone(family):
    model, _ = family.example()
    head, sites = family.head(model), family.sites(model)
    assert head
    for path in head:
        assert list(model.get_submodule(path).parameters())
        assert not any(site.path.startswith(path) for site in sites)


def test_the_logits_are_the_heads(family):
    """Zero heads give zero logits: no other module makes the final decision."""
    model, inputs = family.example()
    for path in family.head(model):
        for parameter in model.get_submodule(path).parameters():
            nn.init.zeros_(parameter)
    assert family.logits(model, inputs).abs().max() == 0


def test_the_head_is_drawn_from_the_seed_whatever_was_drawn_before(family):
    model, _ = family.example()
    other = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    first = initialize_head(model, family, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert initialize_head(other, family, seed=3) == first
    assert torch.equal(state, torch.get_rng_state())
    assert initialize_head(other, family, seed=4) != first
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    prefixes = tuple(f"{path}." for path in family.head(model))
    assert changed and all(name.startswith(prefixes) for name in changed)
    for path in family.head(model):
        for name, parameter in model.get_submodule(path).named_parameters():
            assert parameter.abs().max() == 0 if name.endswith("bias") else 0 < parameter.std() < 0.04


@pytest.mark.parametrize("grouping", ["att", "att_qkv_depth"])
@pytest.mark.parametrize("projections", [QKV, ("query", "value"), ALL])
def test_an_adapter_leaves_the_logits_and_trains_with_the_head_alone(family, grouping, projections):
    model, inputs = family.example()
    before = family.logits(model, inputs)
    adapter = attach(model, AdapterSpec(grouping=grouping, ranks=2, projections=projections))
    torch.testing.assert_close(family.logits(model, inputs), before, rtol=0, atol=1e-6)
    assert family_of(model) is family  # its projections are found when they are wrapped, too
    family.logits(model, inputs).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    prefixes = ("tensor_adapter.", *(f"{path}." for path in family.head(model)))
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    assert any(parameter.grad.norm() > 0 for parameter in adapter.parameters() if parameter.grad is not None)
