"""Models of every family, and adapters with updates as large as trained ones, for the export tests."""

import copy
from dataclasses import replace

import torch

import tensloradist._torchvision  # noqa: F401 (before timm and transformers' image classes)
from tensloradist.adapter import attach
from tensloradist.backbones import FAMILIES as FAMILIES_BY_NAME
from tensloradist.backbones import decoders, encoders, family_of, transformers_

DECODER_FAMILIES = tuple(family.name for family in decoders.DECODER_FAMILIES)
PICTURES = {"pixel_values": torch.linspace(-2, 2, 2 * 3 * 16 * 16).sin().view(2, 3, 16, 16)}


def model_of(name, wide=False):
    """(a plain model, a batch): timm's as its users make it, so that it knows its own configuration.

    `wide`: with feed-forward layers of four times the width, as the real ones have.
    """
    if name == "timm_vit":
        import timm

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}
            return timm.create_model("vit_tiny_patch16_224", **sizes).eval(), PICTURES
    if name in DECODER_FAMILIES:
        return FAMILIES_BY_NAME[name].example()
    names = encoders.ARCHITECTURES[name]
    if wide:
        sizes = {**dict(names.sizes), ("hidden_dim" if name == "distilbert" else "intermediate_size"): 4 * 24}
        names = replace(names, sizes=tuple(sizes.items()))
    return encoders.tiny(names)


ENCODERS = (*encoders.ARCHITECTURES, "timm_vit")
FAMILIES = (*ENCODERS, *DECODER_FAMILIES)


@torch.no_grad()
def trained(plain, spec, update=0.1):
    """(model, adapter): a copy of `plain` with a trained-like head, and updates of the root mean square `update`."""
    model = copy.deepcopy(plain)
    adapter = attach(model, spec)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    if not len(adapter.tensors):  # a reference
        return model, adapter
    deltas = [adapter.delta(p, layer) for p in adapter.shape.projections for layer in range(adapter.shape.layers)]
    size = torch.stack([delta.square().mean() for delta in deltas]).mean().sqrt()
    for tensor in adapter.tensors:  # every factorisation is linear in the parameter that starts at zero
        tensor.parameters_by_name()[tensor.zero].mul_(update / size)
    return model, adapter


@torch.no_grad()
def logits_of(model, inputs):
    return family_of(model).logits(model, inputs)


@torch.no_grad()
def through_peft(plain, folder, inputs):
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(copy.deepcopy(plain), str(folder))
    family = family_of(plain)
    return family.logits(loaded.base_model.model, inputs)


@torch.no_grad()
def through_merged(plain, folder, inputs):
    """Through the plain library alone."""
    if type(plain).__module__.startswith("timm."):
        import timm

        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    else:
        import transformers

        with transformers_.quiet():
            loaded = getattr(transformers, type(plain).__name__).from_pretrained(str(folder)).eval()
    return family_of(loaded).logits(loaded, inputs)
