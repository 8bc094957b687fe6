"""Quantised frozen backbones: near the original, small, trainable around, and refused where that is not possible."""

import builtins

import pytest
import torch

from tensloradist import backbones
from tensloradist.adapter import attach
from tensloradist.backbones import FAMILIES, LANGUAGE_MODEL
from tensloradist.backbones.quantization import quantize
from tensloradist.errors import UserError
from tensloradist.spec import AdapterSpec
from tensloradist.tasks.examples import language_backbone

bitsandbytes = pytest.importorskip("bitsandbytes")
NAMES = ("llama", "bert", "timm_vit")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("quantization", "tolerance"), [("int8", 0.1), ("nf4", 0.6)])
def test_the_head_trains_on_a_backbone_in_fewer_bits(name, quantization, tolerance):
    family = FAMILIES[name]
    model, inputs = family.example()
    exact = family.logits(model, inputs).detach()
    quantize(model, quantization)
    assert family_is_kept(family, model)
    found = family.logits(model, inputs).detach()
    assert 0 < (found - exact).norm() < tolerance * exact.norm()
    adapter = attach(model, AdapterSpec(grouping="qkv_depth", ranks=2))
    torch.testing.assert_close(family.logits(model, inputs), found)
    model.train()
    family.logits(model, inputs).square().sum().backward()
    trained = {n for n, parameter in model.named_parameters() if parameter.grad is not None}
    heads = tuple(f"{path}." for path in family.head(model))
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(("tensor_adapter.", *heads))}
    assert any(p.grad.norm() > 0 for p in adapter.parameters())
    with pytest.raises(UserError, match="is quantised"):
        adapter.merge()


def family_is_kept(family, model):
    """Whether projections are quantised and the head is not."""
    dtypes = {model.get_submodule(site.path).weight.dtype for site in family.sites(model)}
    heads = {p.dtype for path in family.head(model) for p in model.get_submodule(path).parameters()}
    return dtypes <= {torch.int8, torch.uint8} and heads == {torch.float32} and backbones.family_of(model) is family


def test_a_spec_asks_for_it_and_it_is_another_run(tmp_path):
    spec = language_backbone(tmp_path).model_copy(update={"quantization": "nf4"})
    model = backbones.load(spec, LANGUAGE_MODEL)
    assert isinstance(model.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)
    assert model.lm_head.weight.dtype == torch.float32


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "bitsandbytes":
            raise ModuleNotFoundError("No module named 'bitsandbytes'", name="bitsandbytes")
        return real(name, *arguments, **keywords)

    model, _ = FAMILIES["llama"].example()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"quantization: nf4 needs bitsandbytes.*install tensloradist\[quantization\]"):
        quantize(model, "nf4")
