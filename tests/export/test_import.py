"""LoRA checkpoints of PEFT, read as the method `lora`: the same logits, or a refusal that says why."""

import copy
import json

import pytest
import torch
from helpers_export import ENCODERS, logits_of, model_of, trained
from safetensors.torch import load_file, save_file

from tensloradist import from_peft
from tensloradist.adapter import attached_adapter, load
from tensloradist.backbones import family_of
from tensloradist.errors import UserError
from tensloradist.spec import AdapterSpec

SETTINGS = {
    "plain": {"lora_dropout": 0.1},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"FIRST": 1}, "alpha_pattern": {"FIRST": 8}},
    "first layer": {"layers_to_transform": [0]},
    "feed-forward": {"also": ["fc1", "fc2"]},
}


def saved_by_peft(plain, folder, **settings):
    """(PEFT's model, its folder): every LoRA and the head with values that matter."""
    from peft import LoraConfig, get_peft_model

    family = family_of(plain)
    wanted = {"query", "value", *settings.pop("also", ())}
    sites = [*family.sites(plain), *family.ffn(plain)]
    paths = [site.path for site in sites if wanted & set(site.projections)]
    if settings.pop("layers_to_transform", None):
        paths = paths[:2]
    for pattern in ("rank_pattern", "alpha_pattern"):
        if pattern in settings:
            settings[pattern] = {paths[0]: settings[pattern]["FIRST"]}
    config = LoraConfig(r=3, lora_alpha=6, target_modules=paths, modules_to_save=list(family.head(plain)), **settings)
    model = get_peft_model(copy.deepcopy(plain), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(folder))
    return model.eval(), folder


@pytest.mark.parametrize(
    ("family", "settings"),
    [(f, s) for f in (*ENCODERS, "llama") for s in SETTINGS if (f, s) != ("llama", "feed-forward")],
)
def test_a_checkpoint_of_peft_has_the_same_logits(family, settings, tmp_path):
    plain, inputs = model_of(family, wide=True)
    theirs, folder = saved_by_peft(plain, tmp_path, **SETTINGS[settings])
    with torch.no_grad():
        expected = family_of(plain).logits(theirs.base_model.model, inputs)
    ours = copy.deepcopy(plain)
    adapter = from_peft(ours, folder)
    assert (logits_of(plain, inputs) - expected).abs().max() > 0.05
    torch.testing.assert_close(logits_of(ours, inputs), expected, rtol=1e-5, atol=1e-5)
    if settings == "plain":
        projections = adapter.spec.projections  # of a fused layer all three
        assert adapter.spec == AdapterSpec(method="lora", ranks=3, scale=2.0, dropout=0.1, projections=projections)


@pytest.mark.parametrize("family", ["vit", "timm_vit"])
def test_what_was_exported_comes_back(family, tmp_path):
    plain, inputs = model_of(family)
    model, adapter = trained(plain, AdapterSpec(grouping="att_qkv_depth", ranks=2, scale=0.5))
    adapter.export_peft(tmp_path / "lora")
    again = copy.deepcopy(plain)
    back = from_peft(again, tmp_path / "lora")
    torch.testing.assert_close(logits_of(again, inputs), logits_of(model, inputs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back.delta("value", 1), adapter.delta("value", 1), rtol=1e-5, atol=1e-6)


def _config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _first(tensors, ending):
    return next(name for name in tensors if name.endswith(ending))


BROKEN = {
    "peft_type is 'IA3'": lambda f: _config(f, peft_type="IA3"),
    "use_dora is True": lambda f: _config(f, use_dora=True),
    "init_lora_weights is 'pissa_niter_4'.*let PEFT merge": lambda f: _config(f, init_lora_weights="pissa_niter_4"),
    "init_lora_weights is 'olora'": lambda f: _config(f, init_lora_weights="olora"),
    "bias is 'all'": lambda f: _config(f, bias="all"),
    "r is 0": lambda f: _config(f, r=0),
    "its rank is 5": lambda f: _config(f, r=5),
    "not valid JSON": lambda f: (f / "adapter_config.json").write_text("{"),
    "adapter_config.json: No such file": lambda f: (f / "adapter_config.json").unlink(),
    "not a readable safetensors": lambda f: (f / "adapter_model.safetensors").write_bytes(b"torch pickle"),
    "only one of lora_A and lora_B": lambda f: _tensors(f, lambda t: t.pop(_first(t, "lora_B.weight"))),
    "other layers than": lambda f: _tensors(
        f, lambda t: t.update({"base_model.model.vit.layernorm.lora_A.weight": torch.zeros(3, 24)})
    ),
    "not PEFT's layout": lambda f: _tensors(f, lambda t: t.update({"vit.x.lora_A.weight": torch.zeros(3, 24)})),
    "missing tensors": lambda f: _tensors(f, lambda t: t.pop(_first(t, "classifier.bias"))),
    "is for 9 to 24 features": lambda f: _tensors(
        f, lambda t: t.update({_first(t, "lora_A.weight"): torch.zeros(3, 9)})
    ),
}


@pytest.mark.parametrize("says", BROKEN)
def test_what_is_no_plain_lora_of_this_model_is_refused(says, tmp_path):
    plain, inputs = model_of("vit")
    saved_by_peft(plain, tmp_path)
    BROKEN[says](tmp_path)
    before = logits_of(plain, inputs)
    with pytest.raises(UserError, match=says):
        from_peft(plain, tmp_path)
    assert attached_adapter(plain) is None
    assert torch.equal(logits_of(plain, inputs), before)


@pytest.mark.parametrize("reads", ["from_peft", "load"])
def test_an_interrupted_import_leaves_the_model_without_an_adapter(reads, tmp_path, monkeypatch):
    plain, _ = model_of("vit")
    if reads == "from_peft":
        saved_by_peft(plain, tmp_path)
    else:
        trained(plain, AdapterSpec(method="lora", ranks=2))[1].save(tmp_path)
    before = {name: parameter.requires_grad for name, parameter in plain.named_parameters()}

    def interrupt(*_):
        raise KeyboardInterrupt

    module = "tensloradist.export.import_peft" if reads == "from_peft" else "tensloradist.adapter.loading"
    monkeypatch.setattr(f"{module}.copy_into", interrupt)
    with pytest.raises(KeyboardInterrupt):
        (from_peft if reads == "from_peft" else load)(plain, tmp_path)
    assert {name: parameter.requires_grad for name, parameter in plain.named_parameters()} == before


def test_a_lora_of_another_model_is_refused(tmp_path):
    saved_by_peft(model_of("bert")[0], tmp_path)
    with pytest.raises(UserError, match="no LoRA on this model's attention projections, such as vit"):
        from_peft(model_of("vit")[0], tmp_path)
