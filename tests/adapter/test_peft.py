"""LoRA here against PEFT's LoRA on the same backbone and initial values; transformers' DeiT against timm's."""

import pytest
import torch

import tensloradist._torchvision  # noqa: F401 (before timm and transformers' image classes)
from tensloradist import backbones
from tensloradist.adapter import attach
from tensloradist.modes import GROUPINGS
from tensloradist.spec import AdapterSpec, BackboneSpec


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_logits_and_gradients_equal_pefts(data_root, scale):
    from peft import LoraConfig, get_peft_model

    name = str(data_root / "models/deit_tiny")
    spec = BackboneSpec(name=name)
    ours, theirs = backbones.load(spec, 10), backbones.load(spec, 10)
    family = backbones.family_of(ours)
    backbones.initialize_head(ours, family, 0)
    backbones.initialize_head(theirs, family, 0)
    adapter = attach(ours, AdapterSpec(method="lora", ranks=4, scale=scale))
    peft = get_peft_model(
        theirs,
        LoraConfig(
            r=4, lora_alpha=4 * scale, target_modules=["q_proj", "k_proj", "v_proj"], modules_to_save=["classifier"]
        ),
    )
    torch.manual_seed(0)
    linear = {}
    with torch.no_grad():
        for layout, tensor in zip(adapter.arrangement.tensors, adapter.tensors, strict=True):
            path = f"vit.layers.{layout.layers[0]}.attention.{layout.projections[0][0]}_proj"
            module = peft.base_model.model.get_submodule(path)
            linear[path] = tensor, module
            tensor.factors["output"].normal_(std=0.1)
            module.lora_A.default.weight.copy_(tensor.factors["input"].T)
            module.lora_B.default.weight.copy_(tensor.factors["output"])
    pixels, labels = torch.randn(4, 3, 224, 224), torch.arange(4)
    logits, expected = ours(pixel_values=pixels).logits, peft(pixel_values=pixels).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    torch.nn.functional.cross_entropy(expected, labels).backward()
    assert len(linear) == 36
    for tensor, module in linear.values():
        assert module.lora_A.default.weight.grad.abs().max() > 0
        torch.testing.assert_close(
            tensor.factors["input"].grad.T, module.lora_A.default.weight.grad, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            tensor.factors["output"].grad, module.lora_B.default.weight.grad, rtol=1e-5, atol=1e-5
        )
    head = peft.base_model.model.classifier.modules_to_save.default.weight.grad
    torch.testing.assert_close(ours.classifier.weight.grad, head, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grouping", [None, *GROUPINGS])
def test_timm_and_transformers_agree_with_adapters_attached(data_root, grouping):
    """Initial logits, and with trained adapters of the same values: fused and separate layers are one mathematics."""
    models = {
        "transformers": backbones.load(BackboneSpec(name=str(data_root / "models/deit_tiny")), 10),
        "timm": backbones.load(
            BackboneSpec(
                source="timm",
                name="deit_tiny_patch16_224",
                weights=str(data_root / "models/deit_tiny_timm.safetensors"),
            ),
            10,
        ),
    }
    torch.manual_seed(0)
    pixels = {"pixel_values": torch.randn(2, 3, 224, 224)}
    spec = AdapterSpec(method="lora", ranks=2) if grouping is None else AdapterSpec(grouping=grouping, ranks=2)
    initial, attached, trained = {}, {}, {}
    for name, model in models.items():
        family = backbones.family_of(model)
        backbones.initialize_head(model, family, 0)
        with torch.no_grad():
            initial[name] = family.logits(model, pixels)
            adapter = attach(model, spec, seed=0)
            attached[name] = family.logits(model, pixels)
            generator = torch.Generator().manual_seed(1)
            for parameter in adapter.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            trained[name] = family.logits(model, pixels)
        assert torch.equal(attached[name], initial[name])
        assert (trained[name] - initial[name]).abs().max() > 1e-3
    torch.testing.assert_close(initial["timm"], initial["transformers"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trained["timm"], trained["transformers"], rtol=1e-4, atol=1e-4)
