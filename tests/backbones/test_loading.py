"""Loading pretrained backbones: what is accepted, what is refused with which message, and what it leaves behind."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tensloradist import backbones
from tensloradist.backbones import FAMILIES
from tensloradist.errors import UserError
from tensloradist.spec import BackboneSpec

TRANSFORMERS = [name for name in FAMILIES if FAMILIES[name].example.__module__.endswith("transformers_")]


def images(n=2, size=224):
    return {"pixel_values": torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))}


def real(data_root):
    return {
        "deit_tiny": BackboneSpec(name=str(data_root / "models/deit_tiny")),
        "minilm_l6": BackboneSpec(name=str(data_root / "models/minilm_l6")),
        "deit_tiny_patch16_224": BackboneSpec(
            source="timm",
            name="deit_tiny_patch16_224",
            weights=str(data_root / "models/deit_tiny_timm.safetensors"),
        ),
    }


@pytest.fixture
def saved(tmp_path):
    """A pretrained tiny model of the family, in a local folder."""

    def save(name, folder="model"):
        model, inputs = FAMILIES[name].example()
        model.save_pretrained(tmp_path / folder)
        return BackboneSpec(name=str(tmp_path / folder)), model, inputs

    return save


def edit(spec, change):
    """Change the stored weights of a saved model."""
    path = f"{spec.name}/model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_transformers_and_timm_agree_on_the_thousand_logits_of_deit_tiny(data_root):
    specs = real(data_root)
    found = []
    for name in ("deit_tiny", "deit_tiny_patch16_224"):
        model = backbones.load(specs[name], 1000)
        with torch.no_grad():
            found.append(backbones.family_of(model).logits(model, images()))
    assert found[0].shape == (2, 1000)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["deit_tiny", "minilm_l6", "deit_tiny_patch16_224"])
def test_real_backbones_load_in_float32_and_eval_mode_with_a_new_head(data_root, name):
    spec = real(data_root)[name]
    model = backbones.load(spec, 7)
    family = backbones.family_of(model)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # MiniLM is stored in float16
    assert [model.get_submodule(path).out_features for path in family.head(model)] == [7]
    empty = backbones.empty(spec, 7)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert backbones.shape_of(spec) == family.shape(model)
    assert backbones.label(spec) == name
    assert backbones.missing(spec) == []


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_all_but_the_head_is_what_was_saved(saved, name):
    spec, original, inputs = saved(name)
    model = backbones.load(spec, 9)
    family = backbones.family_of(model)
    heads = tuple(f"{path}." for path in family.head(model))
    expected = original.state_dict()
    for key, value in model.state_dict().items():
        assert key.startswith(heads) or torch.equal(value, expected[key])
    assert family.logits(model, inputs).shape == (2, 9)
    same = backbones.load(spec, 4)  # as many labels as the checkpoint has: its own head
    torch.testing.assert_close(family.logits(same, inputs), FAMILIES[name].logits(original, inputs))


def test_dropout_of_the_backbone_acts_in_train_mode_only(saved):
    spec, _, inputs = saved("bert")
    model = backbones.load(spec, 4)
    first, second = (model(**inputs).logits for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_loading_is_quiet_restores_the_logs_and_leaves_the_random_generator(saved, capfd, name):
    from transformers.utils import logging as library

    library.enable_progress_bar()
    library.set_verbosity_info()
    try:
        spec, *_ = saved(name)
        capfd.readouterr()
        before = torch.get_rng_state()
        backbones.load(spec, 9)
        assert capfd.readouterr() == ("", "")
        assert torch.equal(torch.get_rng_state(), before)
        assert library.get_verbosity() == logging.INFO
        assert library.is_progress_bar_enabled()
    finally:
        library.set_verbosity_warning()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_weights_of_the_backbone_that_the_checkpoint_lacks_are_refused_by_name(saved, name):
    spec, model, _ = saved(name)
    lost = f"{FAMILIES[name].sites(model)[1].path}.weight"
    stored = []

    def lose_the_first_key_projection(state):
        key = next(k for k in sorted(state) if "attention" in k and "weight" in k and ("k" in k.split(".")[-2]))
        stored.append(key)
        del state[key]

    edit(spec, lose_the_first_key_projection)
    with pytest.raises(
        UserError, match=r"newly initialised, because the checkpoint lacks them: .*0\.attention"
    ) as caught:
        backbones.load(spec, 4)
    assert lost in str(caught.value)


def test_a_bert_without_its_pooler_is_refused(saved):
    """The pooler is part of the pretrained backbone, not of the head."""
    spec, *_ = saved("bert")
    edit(spec, lambda state: [state.pop(key) for key in list(state) if "pooler" in key])
    with pytest.raises(UserError, match=r"bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight"):
        backbones.load(spec, 4)


def test_weights_of_another_shape_or_of_nobody_are_refused_by_name(saved):
    spec, *_ = saved("bert")
    edit(spec, lambda state: state.update({"bert.embeddings.word_embeddings.weight": torch.zeros(60, 24)}))
    with pytest.raises(UserError, match=r"another shape in the checkpoint: bert\.embeddings\.word_embeddings\.weight"):
        backbones.load(spec, 4)
    spec, *_ = saved("vit", "second")
    edit(spec, lambda state: state.update({"vit.extra.weight": torch.zeros(3)}))
    with pytest.raises(UserError, match=r"not in the model: vit\.extra\.weight"):
        backbones.load(spec, 4)


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("bert", "cls.predictions.transform.dense.weight"),
        ("roberta", "lm_head.dense.weight"),
        ("roberta", "roberta.pooler.dense.weight"),
        ("distilbert", "vocab_transform.weight"),
        ("vit", "vit.pooler.dense.weight"),
    ],
)
def test_the_pretraining_objectives_own_weights_may_be_left_out(saved, name, unused):
    spec, *_ = saved(name)
    edit(spec, lambda state: state.update({unused: torch.zeros(3, 3)}))
    assert backbones.load(spec, 4) is not None


def test_a_model_without_a_family_lists_its_linear_layers(tmp_path):
    from transformers import MobileViTConfig, MobileViTForImageClassification

    config = MobileViTConfig(hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], num_labels=2)
    MobileViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"linear layers are: .*layer\.\*.*\(\d+\)"):
        backbones.shape_of(BackboneSpec(name=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: os.remove(folder / "config.json"), "no config.json"),
        (lambda folder: os.remove(folder / "model.safetensors"), r"no \*\.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: transformers cannot read it"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vitt"}'), "config.json: transformers"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot load the weights"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "clap"}'), "type 'clap'"),
    ],
)
def test_a_broken_folder_is_a_users_mistake_with_its_path(saved, tmp_path, change, message):
    spec, *_ = saved("vit")
    change(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        backbones.load(spec, 3)


def test_a_fingerprint_that_no_longer_holds_is_refused(saved):
    spec, *_ = saved("vit")
    planned = spec.model_copy(update={"fingerprint": backbones.fingerprint(spec)})
    backbones.load(planned, 4)
    edit(spec, lambda state: state["classifier.bias"].add_(1))
    with pytest.raises(UserError, match="has changed since the run was planned"):
        backbones.load(planned, 4)


def test_what_is_no_part_of_a_run_does_not_enter_the_fingerprint(saved, tmp_path):
    spec, *_ = saved("vit")
    before = backbones.fingerprint(spec)
    (tmp_path / "model" / "README.md").write_text("notes")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"never loaded")
    assert backbones.fingerprint(spec) == before
    (tmp_path / "model" / "preprocessor_config.json").write_text("{}")
    assert backbones.fingerprint(spec) != before


def test_each_empty_model_is_the_callers_own(saved):
    spec, *_ = saved("vit")
    first, second = backbones.empty(spec, 3), backbones.empty(spec, 3)
    first.classifier = torch.nn.Identity()
    assert isinstance(second.classifier, torch.nn.Linear)


OFFLINE = """
import json, sys
from tensloradist import backbones
from tensloradist.errors import UserError
from tensloradist.spec import BackboneSpec
found = []
for spec in json.loads(sys.argv[1]):
    spec = BackboneSpec(**spec)
    try:
        fingerprint = backbones.fingerprint(spec)
        pinned = spec.model_copy(update={"fingerprint": fingerprint})
        layers = backbones.shape_of(pinned).layers
        found.append([fingerprint, layers, backbones.missing(pinned), len(backbones.fetch(pinned)),
                      backbones.load(pinned, 5).num_labels])
    except UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_the_hubs_cache_serves_offline_and_what_is_not_there_says_fetch(saved, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    saved("vit", f"hub/models--org--tiny/snapshots/{commit}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    half = tmp_path / "hub" / "models--org--half"
    (half / "refs").mkdir(parents=True)
    (half / "refs" / "main").write_text(commit)
    specs = [
        {"name": "org/tiny"},
        {"name": "org/tiny", "revision": commit},
        {"name": "org/absent"},
        {"name": "org/half"},
        {"name": "org/tiny", "revision": "v2"},
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(specs)], env=environment, capture_output=True, text=True, check=True
    )
    tiny, pinned, absent, half_there, other = json.loads(done.stdout)
    assert tiny == pinned == [f"org/tiny@{commit}", 2, [], 1, 5]
    assert "'org/absent'" in absent and "tensloradist fetch" in absent
    assert "'org/half'" in half_there and "tensloradist fetch" in half_there
    assert "'v2'" in other and "tensloradist fetch" in other
