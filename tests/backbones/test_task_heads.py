"""A task head is trained with the adapter whatever the task: all that a class adds to its pretrained base model."""

import importlib
import inspect

import pytest
import timm
import torch
import transformers
from torch import nn

from tensloradist import AdapterSpec, UserError, attach, from_peft, load
from tensloradist.backbones import FAMILIES, family_of
from tensloradist.backbones.decoders import DECODER_TYPES
from tensloradist.backbones.encoders import ARCHITECTURES
from tensloradist.backbones.quiet import quiet

WITHOUT_POOLER = ("roberta", "xlm-roberta", "camembert")  # pretrained without a task that has one
TYPES = (*(name for names in ARCHITECTURES.values() for name in names.model_types), *DECODER_TYPES)
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "image_size": 16,
    "patch_size": 8,
    "dim": 24,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 32,
    "pad_token_id": 0,
    "encoder_stride": 8,
}
LORA = AdapterSpec(method="lora", ranks=2)


def config_of(model_type):
    kind = transformers.CONFIG_MAPPING[model_type]
    default = kind()
    return kind(**{name: size for name, size in SIZES.items() if hasattr(default, name)})


def classes_of(model_type):
    """(base class, every other class) that transformers defines for this type of model."""
    config = transformers.CONFIG_MAPPING[model_type]
    home = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    found = [
        kind
        for _, kind in inspect.getmembers(home, inspect.isclass)
        if issubclass(kind, transformers.PreTrainedModel) and kind.__module__ == home.__name__
        if kind.config_class is config and "forward" in vars(kind) | vars(kind.__mro__[1])
    ]
    base = transformers.AutoModel._model_mapping[config]
    return base, [kind for kind in found if kind is not base and not kind.__name__.endswith("PreTrainedModel")]


def trainable(model):
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, p in named if p.requires_grad and not name.startswith("tensor_adapter.")}


@pytest.mark.parametrize("model_type", TYPES)
def test_what_a_class_adds_to_the_pretrained_base_model_is_trainable_and_nothing_else(model_type):
    """Each class of the library, against the base model's own parameters; tied ones are the base model's."""
    base, kinds = classes_of(model_type)
    assert len(kinds) >= 2, kinds
    with torch.device("meta"):
        pretrained = {name for name, _ in base(config_of(model_type)).named_parameters()}
    if model_type in WITHOUT_POOLER:
        pretrained = {name for name in pretrained if not name.startswith("pooler.")}
    for kind in kinds:
        with torch.device("meta"):
            model = kind(config_of(model_type))
        own = {f"{model.base_model_prefix}.{name}" for name in pretrained}
        names = dict(model.named_parameters(remove_duplicate=False))
        shared = {id(parameter) for name, parameter in names.items() if name in own}
        added = {name for name, parameter in names.items() if name not in own and id(parameter) not in shared}
        attach(model, LORA)
        assert trainable(model) == (set() if model.can_generate() else added), kind
        assert model.can_generate() or added


def timm_models(names):
    for name in names:
        with torch.device("meta"):
            yield timm.create_model(name, num_classes=5)


def check_timm_head(model):
    """What timm itself replaces for another number of classes is the head."""
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    attach(model, LORA).detach()
    attach(model, LORA)
    found = trainable(model)
    model.tensor_adapter.detach()
    with torch.device("meta"):
        model.reset_classifier(3)
    assert found == {name for name, parameter in model.named_parameters() if before.get(name) != id(parameter)}


def test_timms_head_is_what_timm_replaces_for_other_classes():
    names = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "naflexvit_base_patch16_gap")
    for model in timm_models(names):
        check_timm_head(model)


@pytest.mark.evidence
def test_timms_heads_are_what_timm_replaces_in_every_accepted_module():
    from timm.models._registry import _module_to_models

    accepted = 0
    for model in timm_models(min(names, key=len) for names in _module_to_models.values()):
        try:
            family_of(model).shape(model)
        except UserError:
            continue
        accepted += 1
        check_timm_head(model)
    assert accepted >= 2


def model_and_inputs(kind, seed=0):
    """A tiny model of a class of transformers, with a batch that fits."""
    torch.manual_seed(seed)
    config = config_of(getattr(transformers, kind).config_class.model_type)
    model = getattr(transformers, kind)(config).eval()
    if "image_size" in config.to_dict():
        return model, {"pixel_values": torch.randn(2, 3, 16, 16), "bool_masked_pos": torch.ones(2, 4).bool()}
    shape = (2, 3, 6) if "MultipleChoice" in kind else (2, 6)
    return model, {"input_ids": torch.randint(5, 50, shape)}


@torch.no_grad()
def outputs(model, inputs):
    found = model(**inputs)
    return torch.cat([value.flatten() for value in found.to_tuple() if torch.is_tensor(value)])


@torch.no_grad()
def moved(model):
    """As after training: every trainable parameter elsewhere."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.1)


HEADS = (
    "BertForQuestionAnswering",
    "BertForMaskedLM",
    "BertForPreTraining",
    "RobertaForMultipleChoice",
    "DistilBertForMaskedLM",
    "ViTForMaskedImageModeling",
    "Qwen3ForTokenClassification",
    "LlamaForQuestionAnswering",
)


@pytest.mark.parametrize("kind", HEADS)
def test_a_saved_head_gives_the_same_outputs_by_every_way_out(kind, tmp_path):
    """Saved and loaded, merged, and as PEFT's LoRA read by us and by PEFT itself."""
    from peft import PeftModel

    model, inputs = model_and_inputs(kind)
    adapter = attach(model, LORA)
    moved(model)
    expected = outputs(model, inputs)
    adapter.save(tmp_path / "saved")
    again, _ = model_and_inputs(kind)
    assert (outputs(again, inputs) - expected).abs().max() > 1e-2
    load(again, tmp_path / "saved")
    torch.testing.assert_close(outputs(again, inputs), expected)

    with quiet():
        adapter.export_merged(tmp_path / "merged")
        merged = getattr(transformers, kind).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(outputs(merged, inputs), expected, atol=1e-5, rtol=1e-5)

    if kind == "ViTForMaskedImageModeling":  # its mask token is in no module
        with pytest.raises(UserError, match="mask_token.*export it merged"):
            adapter.export_peft(tmp_path / "lora")
        return
    adapter.export_peft(tmp_path / "lora")
    ours, _ = model_and_inputs(kind)
    from_peft(ours, tmp_path / "lora")
    assert trainable(ours) == trainable(model)
    theirs = PeftModel.from_pretrained(model_and_inputs(kind)[0], tmp_path / "lora").eval()
    for found in (outputs(ours, inputs), outputs(theirs, inputs)):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "task"),
    [("BertForTokenClassification", "TOKEN_CLS"), ("RobertaForQuestionAnswering", "QUESTION_ANS")],
)
def test_a_head_that_peft_trained_for_its_task_type_is_read_and_stays_trainable(kind, task, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, inputs = model_and_inputs(kind)
    theirs = get_peft_model(model, LoraConfig(r=2, lora_alpha=2, target_modules=["query", "value"], task_type=task))
    moved(theirs)
    expected = outputs(theirs.eval(), inputs)
    theirs.save_pretrained(tmp_path)
    ours, _ = model_and_inputs(kind)
    from_peft(ours, tmp_path)
    torch.testing.assert_close(outputs(ours, inputs), expected, atol=1e-5, rtol=1e-5)
    assert trainable(ours) == {f"{family_of(ours).head(ours)[0]}.{name}" for name in ("weight", "bias")}


def test_a_decoder_tied_to_the_embeddings_stays_frozen_and_the_rest_of_its_head_is_trained(tmp_path):
    model, _ = model_and_inputs("BertForMaskedLM")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    adapter = attach(model, LORA)
    assert not model.cls.predictions.decoder.weight.requires_grad
    assert model.cls.predictions.bias.requires_grad and model.cls.predictions.transform.dense.weight.requires_grad
    hidden = {name for name, value in adapter.attachment.head_state().items() if value.shape == (50, 24)}
    assert not hidden, "the embeddings are the backbone's, not the head's"


def test_modules_that_peft_saved_beside_the_head_are_read_and_trained_too(tmp_path):
    from peft import LoraConfig, get_peft_model

    model, inputs = model_and_inputs("BertForSequenceClassification")
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["query"], modules_to_save=["pooler", "classifier"])
    theirs = get_peft_model(model, config)
    moved(theirs)
    expected = outputs(theirs.eval(), inputs)
    theirs.save_pretrained(tmp_path)
    ours, _ = model_and_inputs("BertForSequenceClassification")
    adapter = from_peft(ours, tmp_path)
    torch.testing.assert_close(outputs(ours, inputs), expected, atol=1e-5, rtol=1e-5)
    assert "bert.pooler.dense.weight" in trainable(ours)
    adapter.save(tmp_path / "saved")
    again, _ = model_and_inputs("BertForSequenceClassification")
    load(again, tmp_path / "saved")
    assert trainable(again) == trainable(ours) and torch.equal(outputs(again, inputs), outputs(ours, inputs))


def test_shared_weights_that_peft_trained_apart_are_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    model, _ = model_and_inputs("BertForMaskedLM")
    theirs = get_peft_model(model, LoraConfig(r=2, lora_alpha=2, target_modules=["query"], modules_to_save=["cls"]))
    moved(theirs)
    theirs.save_pretrained(tmp_path)
    ours, _ = model_and_inputs("BertForMaskedLM")
    with pytest.raises(UserError, match=r"decoder\.weight is shared with the backbone"):
        from_peft(ours, tmp_path)
    assert not hasattr(ours, "tensor_adapter")


@pytest.mark.parametrize("lacks", [True, False])
def test_a_pooler_that_the_checkpoint_lacks_is_trained_and_one_that_it_has_is_not(lacks, tmp_path):
    model_and_inputs("BertForMaskedLM" if lacks else "BertForPreTraining")[0].save_pretrained(tmp_path)
    with quiet():
        model = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    attach(model, LORA)
    assert ("bert.pooler.dense.weight" in trainable(model)) == lacks
    assert {"classifier.weight", "classifier.bias"} <= trainable(model)


@pytest.mark.parametrize("lacks", [True, False])
def test_a_language_models_prediction_of_tokens_is_trained_where_the_checkpoint_lacks_it(lacks, tmp_path):
    model_and_inputs("LlamaModel" if lacks else "LlamaForCausalLM")[0].save_pretrained(tmp_path)
    with quiet():
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    attach(model, LORA)
    assert trainable(model) == ({"lm_head.weight"} if lacks else set())


@pytest.mark.parametrize("loaded", [False, True])
def test_what_a_users_language_model_adds_is_trained_and_the_rest_frozen(loaded, tmp_path):
    model, _ = model_and_inputs("LlamaForCausalLM")

    class WithValueHead(transformers.LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.v_head = nn.Linear(config.hidden_size, 1)
            self.post_init()

    own = WithValueHead(model.config)
    if loaded:
        model.save_pretrained(tmp_path)
        with quiet():
            own = WithValueHead.from_pretrained(tmp_path)
    attach(own, LORA)
    assert trainable(own) == {"v_head.weight", "v_head.bias"}


def test_head_names_what_stays_trainable():
    model, _ = model_and_inputs("BertForMultipleChoice")
    attach(model, LORA, head=["bert.pooler"]).detach()
    adapter = attach(model, LORA, head=("bert.pooler", "classifier"))
    assert trainable(model) == {
        f"{path}.{n}" for path in ("bert.pooler.dense", "classifier") for n in ("weight", "bias")
    }
    adapter.detach()
    attach(model, LORA, head=())
    assert trainable(model) == set()


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (["clasifier"], "head: Unknown module with parameters 'clasifier'. Did you mean 'classifier'"),
        ("classifier", r"head: 'classifier' is one text; give a list of names, such as head=\['classifier'\]"),
        (["bert.encoder"], r"head: bert.encoder contains the attention layer bert.encoder.layer.0"),
        (["dropout"], "head: Unknown module with parameters 'dropout'"),
        ([""], "head: Unknown module with parameters ''"),
    ],
)
def test_a_head_that_cannot_be_is_refused_and_the_model_left_alone(head, says):
    model, _ = model_and_inputs("BertForMultipleChoice")
    with pytest.raises(UserError, match=says):
        attach(model, LORA, head=head)
    assert all(parameter.requires_grad for parameter in model.parameters())


class Around(nn.Module):
    """A user's own model: a pretrained encoder, and what its author put on it."""

    def __init__(self, *encoders: nn.Module) -> None:
        super().__init__()
        self.config = encoders[0].config
        for number, encoder in enumerate(encoders):
            self.add_module(f"encoder_{number}", encoder)
        self.tagger = nn.Linear(24, 3)
        self.temperature = nn.Parameter(torch.ones(()))


def test_what_a_users_own_module_adds_to_a_pretrained_model_is_its_head():
    model = Around(model_and_inputs("BertModel")[0])
    attach(model, LORA)
    assert trainable(model) == {"tagger.weight", "tagger.bias", "temperature"}


def test_a_model_whose_backbone_cannot_be_told_from_its_head_is_refused_and_head_offered():
    two = Around(model_and_inputs("BertModel")[0], model_and_inputs("RobertaModel")[0])
    with pytest.raises(UserError, match=r"cannot be told apart; name the modules .*tagger.*head=\(\)"):
        FAMILIES["bert"].head(two)
