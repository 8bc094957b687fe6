"""Decoders as classifiers and as language models, and backbones that are built from a configuration alone."""

import pytest
import torch

from tensloradist import backbones
from tensloradist.adapter import attach
from tensloradist.backbones import FAMILIES, LANGUAGE_MODEL, QKV, family_of
from tensloradist.backbones.decoders import DECODER_TYPES, IGNORED, answer_scores
from tensloradist.errors import UserError
from tensloradist.spec import AdapterSpec, BackboneSpec
from tensloradist.tasks.examples import language_backbone, text_backbone

DECODERS = ("gemma", "llama", "mistral", "qwen")
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}


@pytest.mark.parametrize("model_type", DECODER_TYPES)
@pytest.mark.parametrize("num_labels", [3, LANGUAGE_MODEL])
def test_every_model_type_is_built_from_its_configuration_and_adapted(tmp_path, model_type, num_labels):
    from transformers import AutoConfig

    AutoConfig.for_model(model_type, **SIZES).save_pretrained(tmp_path)
    spec = BackboneSpec(name=str(tmp_path), random_init=True)
    before = torch.get_rng_state()
    model, again = backbones.load(spec, num_labels), backbones.load(spec, num_labels)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    family = family_of(model)
    shape = family.shape(model)
    assert (shape.d_in, shape.d_out, shape.heads, shape.kv_heads, shape.layers) == (24, 32, 4, 2, 2)
    ids = torch.randint(3, 50, (2, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if num_labels == LANGUAGE_MODEL:
        inputs["targets"] = ids[:, -3:].roll(-1, 1)
    before = family.logits(model, inputs)
    adapter = attach(model, AdapterSpec(grouping="att_qkv_depth", ranks=2))
    torch.testing.assert_close(family.logits(model, inputs), before, rtol=1e-6, atol=1e-6)
    family.logits(model, inputs)[:, 0].sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if name.startswith(("tensor_adapter.", "score."))}
    assert any(parameter.grad.norm() > 0 for parameter in adapter.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", DECODERS)
def test_a_pretrained_decoder_is_loaded_as_classifier_and_as_language_model(tmp_path, name):
    """From the weights of a language model, which is how decoders are published."""
    import transformers

    example, inputs = FAMILIES[name].example()
    original = getattr(transformers, type(example).__name__.replace("SequenceClassification", "CausalLM"))(
        example.config
    ).eval()
    original.save_pretrained(tmp_path)
    spec = BackboneSpec(name=str(tmp_path))
    language = backbones.load(spec, LANGUAGE_MODEL)
    assert torch.equal(language(**inputs).logits, original(**inputs).logits)
    classifier = backbones.load(spec, 5)
    assert FAMILIES[name].logits(classifier, inputs).shape == (2, 5)
    assert torch.equal(
        classifier.model.layers[1].self_attn.k_proj.weight, original.model.layers[1].self_attn.k_proj.weight
    )
    assert FAMILIES[name].head(language) == () and FAMILIES[name].head(classifier) == ("score",)


@pytest.mark.parametrize("name", DECODERS)
def test_padding_changes_nothing(name):
    model, inputs = FAMILIES[name].example()
    alone = {key: value[1:, :6] for key, value in inputs.items()}
    both = FAMILIES[name].logits(model, inputs)
    torch.testing.assert_close(both[1:], FAMILIES[name].logits(model, alone), rtol=1e-4, atol=1e-5)


def test_answer_scores_are_transformers_own_loss_and_greedy_decoding(tmp_path):
    model = backbones.load(language_backbone(tmp_path), LANGUAGE_MODEL)
    ids = torch.randint(3, 250, (6, 5))
    greedy = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    greedy[3:, -1] = (greedy[3:, -1] + 1) % 250  # half of the answers end otherwise
    targets = torch.full_like(greedy, IGNORED)
    targets[:, 4:-1] = greedy[:, 5:]
    with torch.no_grad():
        inputs = {"input_ids": greedy, "attention_mask": torch.ones_like(greedy), "targets": targets[:, 4:]}
        found = family_of(model).logits(model, inputs)
        labels = greedy.clone()
        labels[:, :5] = IGNORED
        loss = model(greedy, labels=labels).loss
    assert found[:, 1].tolist() == [4] * 6 and found[:, 2].tolist() == [1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(found[:, 0].sum() / found[:, 1].sum(), loss, rtol=1e-5, atol=1e-6)


def test_an_answer_is_scored_by_its_own_tokens_alone():
    logits = torch.randn(2, 4, 9)
    targets = torch.tensor([[IGNORED, 3, 4, IGNORED], [1, IGNORED, IGNORED, IGNORED]])
    scores = answer_scores(logits, targets)
    expected = -logits.log_softmax(-1)
    torch.testing.assert_close(scores[:, 0], torch.stack([expected[0, 1, 3] + expected[0, 2, 4], expected[1, 0, 1]]))
    assert scores[:, 1].tolist() == [2, 1]


def test_a_decoder_without_a_padding_token_pads_with_the_end_of_text(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(**SIZES, pad_token_id=None, eos_token_id=[7, 8]).save_pretrained(tmp_path)
    model = backbones.load(BackboneSpec(name=str(tmp_path), random_init=True), 3)
    assert model.config.pad_token_id == 7
    ids = torch.tensor([[4, 5, 6], [4, 5, 7]])
    logits = family_of(model).logits(model, {"input_ids": ids, "attention_mask": (ids != 7).long()})
    alone = family_of(model).logits(model, {"input_ids": ids[1:, :2], "attention_mask": torch.ones(1, 2).long()})
    torch.testing.assert_close(logits[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "heads", "layers"),
    [
        ("vit_large_patch16_224", 1024, 16, 24),
        ("vit_huge_patch14_224", 1280, 16, 32),
        ("vit_giant_patch14_clip_224", 1408, 16, 40),
        ("vit_so400m_patch14_siglip_224", 1152, 16, 27),
        ("vit_large_patch14_dinov2", 1024, 16, 24),
    ],
)
def test_timms_larger_vision_transformers(name, width, heads, layers):
    spec = BackboneSpec(source="timm", name=name, random_init=True)
    shape = backbones.shape_of(spec)
    assert (shape.d_in, shape.heads, shape.layers) == (width, heads, layers)
    assert backbones.missing(spec) == []


@pytest.mark.parametrize(
    ("config", "sizes", "shape"),
    [
        ("RobertaConfig", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}, (1024, 16, 24)),
        ("ViTConfig", {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}, (1280, 16, 32)),
    ],
)
def test_transformers_larger_encoders_from_their_configuration(tmp_path, config, sizes, shape):
    import transformers

    getattr(transformers, config)(**sizes).save_pretrained(tmp_path)
    found = backbones.shape_of(BackboneSpec(name=str(tmp_path), random_init=True))
    assert (found.d_in, found.heads, found.layers) == shape


def test_random_weights_need_no_weights_and_are_another_run(tmp_path):
    spec = language_backbone(tmp_path)
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        backbones.load(spec.model_copy(update={"random_init": False}), LANGUAGE_MODEL)
    backbones.load(spec, LANGUAGE_MODEL).save_pretrained(spec.name)
    pretrained = backbones.fingerprint(spec.model_copy(update={"random_init": False}))
    assert backbones.fingerprint(spec) != pretrained
    timm = BackboneSpec(source="timm", name="vit_tiny_patch16_224", random_init=True)
    assert backbones.fingerprint(timm) != backbones.fingerprint(
        timm.model_copy(update={"name": "vit_small_patch16_224"})
    )
    digits = BackboneSpec(source="digits_vit", name="digits_vit", random_init=True)
    first, second = (backbones.load(digits, 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert family_of(first).shape(first, QKV) == backbones.shape_of(digits)


def test_an_encoder_is_no_language_model(tmp_path):
    with pytest.raises(UserError, match="of type 'bert', not a decoder"):
        backbones.load(text_backbone(tmp_path), LANGUAGE_MODEL)


def test_random_weights_take_no_weights_file():
    with pytest.raises(ValueError, match="with random_init: true, which needs none"):
        BackboneSpec(source="timm", name="vit_tiny_patch16_224", weights="w.safetensors", random_init=True)
