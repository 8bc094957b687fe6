"""Attention output and feed-forward matrices as targets, on models whose matrices fit, and refusals where not."""

import pytest
import torch

import tensloradist._torchvision  # noqa: F401 (before timm and transformers' image classes)
from tensloradist.adapter import attach, load
from tensloradist.backbones import FAMILIES
from tensloradist.errors import UserError
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec

TEXT = {"vocab_size": 50, "max_position_embeddings": 40}
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
IMAGE = {**SMALL, "image_size": 16, "patch_size": 8}
MODELS = {
    "vit": ("ViTConfig", "ViTForImageClassification", IMAGE),
    "bert": ("BertConfig", "BertForSequenceClassification", {**SMALL, **TEXT}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 96, **TEXT},
    ),
}
ADAPTERS = {
    **{method: AdapterSpec(method=method, ranks=2, targets="original") for method in PRESETS if "metatt" not in method},
    "lora": AdapterSpec(method="lora", ranks=2, projections=("query", "value", "fc1", "fc2")),
    "depth": AdapterSpec(grouping="depth", ranks=2, projections=("attention_output", "fc1", "fc2")),
    "ffn alone": AdapterSpec(method="fact_tt", ranks=2, projections=("fc1", "fc2")),
}


CASES = [("timm_vit", name) for name in ADAPTERS] + [(kind, name) for kind in MODELS for name in ("cara", "lora")]


def example(kind):
    import transformers

    family = FAMILIES[kind]
    model, inputs = family.example()
    if kind in MODELS:
        config, name, sizes = MODELS[kind]
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config)(num_labels=4, **sizes)).eval()
    return model.double(), {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}, family


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_targets_of_a_real_model(kind, name, tmp_path):
    model, inputs, family = example(kind)
    spec = ADAPTERS[name]
    before = family.logits(model, inputs)
    adapter = attach(model, spec, seed=1)
    torch.testing.assert_close(family.logits(model, inputs), before, rtol=0, atol=1e-12)
    seen = {}
    for site in family.adapted_sites(model, spec.projections):
        wrapped = model.get_submodule(site.path)
        wrapped.register_forward_hook(lambda m, x, y, site=site: seen.update({site: (m, x[0].detach(), y.detach())}))
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        trained = family.logits(model, inputs)
        assert (trained - before).abs().max() > 1e-6
        found = {(p, site.layer) for site in seen for p in site.projections if p in spec.projections}
        assert found == {(p, layer) for p in spec.projections for layer in range(2)}
        for site, (wrapped, x, y) in seen.items():
            parts = (y - wrapped.base(x)).split(wrapped.widths, dim=-1)
            for projection, part in zip(site.projections, parts, strict=True):
                if projection not in spec.projections:
                    assert part.abs().max() < 1e-12
                    continue
                bias = adapter.scale * adapter.biases[projection] if projection in adapter.biases else 0.0
                expected = x @ adapter.delta(projection, site.layer) + bias
                torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9)
        adapter.save(tmp_path)
        adapter.merge()
        torch.testing.assert_close(family.logits(model, inputs), trained, rtol=1e-9, atol=1e-9)
        adapter.unmerge()
        assert torch.equal(family.logits(model, inputs), trained)
    family.logits(model, inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())
    head = {path: model.get_submodule(path).state_dict() for path in family.head(model)}
    adapter.detach()
    torch.testing.assert_close(family.logits(model, inputs), before, rtol=0, atol=1e-12)
    assert head
    load(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(family.logits(model, inputs), trained)


def test_dropout_between_a_and_b_acts_in_training_only():
    model, inputs = FAMILIES["timm_vit"].example()
    family = FAMILIES["timm_vit"]
    adapter = attach(model, AdapterSpec(method="fact_tt", ranks=2, dropout=0.5))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
        assert torch.equal(family.logits(model, inputs), family.logits(model, inputs))
        model.train()
        assert not torch.equal(family.logits(model, inputs), family.logits(model, inputs))
        # Hidden features come after what belongs to the layer: V is shared, and does not see the dropped ones.
        (_, first), (_, second) = adapter.pair("query", 0), adapter.pair("value", 1)
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("family", "spec", "says"),
    [
        ("vit", AdapterSpec(method="fact_tt", targets="original"), "fc1 can only be adapted if it maps 24 to 96"),
        ("timm_vit", AdapterSpec(grouping="qkv", projections=("query", "fc1")), "cannot stack fc1"),
        ("timm_vit", AdapterSpec(grouping="att", projections=("fc1", "fc2")), "cannot stack fc1 and fc2"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(family, spec, says):
    model, _ = FAMILIES[family].example()
    with pytest.raises(UserError, match=says):
        attach(model, spec)
    assert not any("tensor_adapter" in name for name, _ in model.named_modules())
