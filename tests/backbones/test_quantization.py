"""Quantised frozen backbones: near the original, small, trainable around, and refused where that is not possible."""

import builtins

import pytest
import torch
from safetensors.torch import load_file

from tensloradist import backbones
from tensloradist.adapter import attach, load
from tensloradist.backbones import FAMILIES, LANGUAGE_MODEL
from tensloradist.backbones.quantization import check_kernels, quantize
from tensloradist.errors import UserError
from tensloradist.identity import resolve
from tensloradist.spec import AdapterSpec, RunSpec
from tensloradist.tasks.examples import language_backbone
from tensloradist.training import train

bitsandbytes = pytest.importorskip("bitsandbytes")
NAMES = ("llama", "bert", "timm_vit")
WIDTH = 64  # every layer's sizes are multiples of it: whole blocks of nf4, which every kernel takes


def wide(name):
    """A small model of the family, and inputs for it."""
    import transformers
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    if name == "timm_vit":
        model = VisionTransformer(img_size=16, patch_size=8, num_classes=4, embed_dim=WIDTH, depth=2, num_heads=4)
        return model.eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForSequenceClassification),
        "bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
    }[name]
    config = config_class(
        num_labels=4,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    ids = torch.randint(5, 50, (2, 9))
    return model_class(config).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(params=[False, True], ids=["no AVX512-BF16", "AVX512-BF16"])
def processor(request, monkeypatch):
    """What bitsandbytes finds of the processor when it chooses how an evaluation computes."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: request.param)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("quantization", "tolerance"), [("int8", 0.1), ("nf4", 0.6)])
def test_the_head_trains_on_a_backbone_in_fewer_bits(name, quantization, tolerance, tmp_path):
    family = FAMILIES[name]
    model, inputs = wide(name)
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
    with pytest.raises(UserError, match="is quantised.*export it as a LoRA"):
        adapter.export_merged(tmp_path / "merged")
    adapter.export_peft(tmp_path / "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_an_evaluation_neither_rounds_to_bfloat16_nor_cuts_the_gradients_whatever_the_processor(processor):
    model, inputs = wide("llama")
    quantize(model, "nf4")
    attach(model, AdapterSpec(grouping="qkv_depth", ranks=2))
    for parameter in model.tensor_adapter.parameters():
        torch.nn.init.normal_(parameter)
    family = FAMILIES["llama"]

    def gradients():
        model.train().zero_grad()
        family.logits(model, inputs).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.tensor_adapter.parameters()]

    before = gradients()
    with torch.no_grad():
        evaluated = family.logits(model.eval(), inputs)
    assert all(value.norm() > 0 for value in before)
    torch.testing.assert_close(gradients(), before, rtol=0, atol=0)
    torch.testing.assert_close(evaluated, family.logits(model, inputs).detach(), rtol=1e-5, atol=1e-6)


def test_a_layer_that_the_kernels_do_not_take_is_refused_by_name_and_size(monkeypatch):
    """The processor's kernels are stood in for by one that takes outputs in whole blocks of 32."""
    forward = bitsandbytes.nn.Linear4bit.forward

    def in_blocks(layer, x):
        assert layer.out_features % 32 == 0, "N must be divisible by block_n"
        return forward(layer, x)

    model, _ = FAMILIES["llama"].example()
    quantize(model, "nf4")
    attach(model, AdapterSpec(grouping="qkv_depth", ranks=2))
    check_kernels(model, "nf4", "bf16")
    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", in_blocks)
    with pytest.raises(
        UserError, match=r"nf4.*model.layers.0.self_attn.k_proj, a layer of 24 inputs and 16 outputs \(N must"
    ):
        check_kernels(model, "nf4", "bf16")
    check_kernels(quantize(wide("llama")[0], "nf4"), "nf4", "fp32")


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_run_is_trained_and_its_adapter_fits_the_backbone_loaded_again(tmp_path, quantization, precision):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit", "quantization": quantization},
        "task": {"name": "digits", "train_examples": 64},
        "adapter": {"grouping": "att", "ranks": 2},
        "optimizer": {"epochs": 1, "batch_size": 32},
        "precision": precision,
        "compute": {"device": "cpu", "threads": 1},
    }
    run = resolve(RunSpec.model_validate(data))
    folder = tmp_path / "0001"
    folder.mkdir()
    result = train(run, folder)
    assert result.state == "finished" and result.frozen_backbone is None
    model = backbones.load(run.backbone, 5)
    trained = load_file(folder / "adapter.safetensors")
    for name, value in load(model, folder).state_dict().items():
        assert torch.equal(value, trained[name])


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
