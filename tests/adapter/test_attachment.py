"""An adapter's life on a model: attach, train, save, load, merge, unmerge, detach; for every registered family."""

import json
import warnings

import pytest
import torch

import tensloradist._torchvision  # noqa: F401 (before timm and transformers' image classes)
from tensloradist.adapter import attach, attached_adapter, detach, load
from tensloradist.adapter.attaching import RankWarning
from tensloradist.backbones import FAMILIES, family_of
from tensloradist.errors import UserError
from tensloradist.modes import GROUPINGS
from tensloradist.spec import AdapterSpec

ALL_FOUR = ("query", "key", "value", "attention_output")
SPECS = {
    "lora": AdapterSpec(method="lora", ranks=2, scale=0.7),
    **{name: AdapterSpec(grouping=name, ranks=2) for name in GROUPINGS},
    "query_value": AdapterSpec(grouping="qkv_depth", ranks=2, projections=("query", "value")),
    "with_output": AdapterSpec(grouping="att_qkv", ranks=2, projections=ALL_FOUR, scale=2.0),
    "official": AdapterSpec(grouping="att_qkv_depth", ranks=3, head_layout="official"),
}


def randomize(adapter, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture(params=sorted(FAMILIES))
def example(request):
    torch.manual_seed(0)
    model, inputs = FAMILIES[request.param].example()
    return model.eval(), inputs, FAMILIES[request.param]


def test_the_family_finds_itself(example):
    model, _, family = example
    assert family_of(model) is family


@pytest.mark.parametrize("name", SPECS)
def test_whole_life(example, name, tmp_path):
    model, inputs, family = example
    spec = SPECS[name]
    heads, key_value_heads = family.heads(model)
    if spec.head_layout == "official" and heads // key_value_heads not in (1, 4):  # the official code's fixed number
        with pytest.raises(UserError, match="use head_layout: aligned"):
            attach(model, spec, seed=5)
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        original = family.logits(model, inputs)
    adapter = attach(model, spec, seed=5)
    with torch.no_grad():
        assert torch.equal(family.logits(model, inputs), original), "an untrained adapter changes the output"
    heads = family.head(model)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {
        n for n, _ in model.named_parameters() if n.startswith(("tensor_adapter.", *(f"{h}." for h in heads)))
    }

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(family.logits(model, inputs), torch.zeros(len(original)).long())
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    randomize(adapter)
    with torch.no_grad():
        trained = family.logits(model, inputs)
        assert not torch.allclose(trained, original)

        adapter.save(tmp_path)
        adapter.merge()
        torch.testing.assert_close(family.logits(model, inputs), trained, rtol=1e-5, atol=1e-5)
        adapter.unmerge()
        assert torch.equal(family.logits(model, inputs), trained), "unmerge must give the same bits"

    detach(model)
    head = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in before.items():
        if not key.startswith(tuple(f"{h}." for h in heads)):
            assert torch.equal(head[key], value), f"{key} of the frozen backbone changed"
    model.load_state_dict(before)
    load(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(family.logits(model, inputs), trained)


def test_merged_model_works_after_detaching(example):
    model, inputs, family = example
    adapter = attach(model, SPECS["qkv_depth"])
    randomize(adapter)
    with torch.no_grad():
        trained = family.logits(model, inputs)
        adapter.merge()
        adapter.detach()
        torch.testing.assert_close(family.logits(model, inputs), trained, rtol=1e-5, atol=1e-5)
    assert not any("tensor_adapter" in name for name, _ in model.named_modules())


@pytest.mark.parametrize("again", ["the model", "its encoder"])
def test_an_interrupted_pass_leaves_nothing_behind(again):
    """torch calls no hooks for a KeyboardInterrupt: the next pass must not be taken for a part of that one."""
    model, inputs = FAMILIES["vit"].example()
    model.eval()
    adapter = attach(model, SPECS["depth"])
    call = model if again == "the model" else model.base_model

    def interrupt(*_):
        raise KeyboardInterrupt

    with torch.no_grad():
        first = call(**inputs)[0].clone()
        hook = next(iter(adapter.attachment.wrapped.values())).register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(**inputs)
        hook.remove()
        randomize(adapter)
        assert not torch.allclose(call(**inputs)[0], first)


def test_a_merge_computes_the_pairs_once(monkeypatch):
    model, _ = FAMILIES["vit"].example()
    adapter = attach(model, SPECS["lora"])
    calls = []
    forward = type(adapter).forward
    monkeypatch.setattr(type(adapter), "forward", lambda self: calls.append(1) or forward(self))
    adapter.merge()
    assert len(adapter.attachment.wrapped) > 1 and len(calls) == 1


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, inputs = (
        FAMILIES["timm_vit"].example() if "timm_vit" in FAMILIES else next(iter(FAMILIES.values())).example()
    )
    family = family_of(model)
    adapter = attach(model, AdapterSpec(grouping="qkv", ranks=2, dropout=0.5))
    randomize(adapter)
    with torch.no_grad():
        model.eval()
        assert torch.equal(family.logits(model, inputs), family.logits(model, inputs))
        model.train()
        assert not torch.equal(family.logits(model, inputs), family.logits(model, inputs))


def test_refusals(tmp_path):
    model, _ = FAMILIES["bert"].example()
    with pytest.raises(UserError, match=r"No attention projections .* linear layers"):
        attach(torch.nn.Sequential(torch.nn.Linear(2, 2)), SPECS["lora"])
    adapter = attach(model, SPECS["qkv"])
    with pytest.raises(UserError, match="has an adapter already"):
        attach(model, SPECS["lora"])
    with pytest.raises(UserError, match="not merged"):
        adapter.unmerge()
    adapter.save(tmp_path)
    detach(model)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "query" in n).add_(1)
    with pytest.raises(UserError, match="other backbone weights"):
        load(model, tmp_path)
    assert not any("tensor_adapter" in name for name, _ in model.named_modules())
    (tmp_path / "adapter.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load(model, tmp_path)


@pytest.mark.parametrize("spec", [SPECS["qkv_depth"], AdapterSpec(method="full")], ids=["qkv_depth", "full"])
def test_a_head_that_was_saved_and_is_gone_is_missed_and_the_model_stays_as_it_was(spec, tmp_path):
    model, _ = FAMILIES["bert"].example()
    adapter = attach(model, spec)
    adapter.save(tmp_path)
    (tmp_path / "head.safetensors").unlink()
    adapter.detach()
    if spec.method == "full":
        model.get_parameter("bert.embeddings.word_embeddings.weight").data.add_(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"head\.safetensors: not a readable"):
        load(model, tmp_path)
    assert attached_adapter(model) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("place", "says"),
    [("a file/x", "Not a directory"), ("a file", "File exists"), ("x" * 300, "File name too long")],
)
def test_a_folder_that_cannot_be_written_or_read_is_told(place, says, tmp_path):
    model, _ = FAMILIES["bert"].example()
    adapter = attach(model, SPECS["lora"])
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match=f"{place}: the adapter cannot be saved there .{says}.; choose another folder"):
        adapter.save(tmp_path / place)
    for write in (adapter.export_merged, adapter.export_peft):
        with pytest.raises(UserError, match=f"{place}: .*; choose another folder"):
            write(tmp_path / place)
    adapter.detach()
    with pytest.raises(UserError, match=place):
        load(model, tmp_path / place)


def test_a_merged_adapter_is_not_saved(tmp_path):
    model, _ = FAMILIES["bert"].example()
    adapter = attach(model, SPECS["qkv_depth"])
    adapter.merge()
    with pytest.raises(UserError, match="merged.*unmerge before you save"):
        adapter.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": None}, "seed: missing"),
        ({"seed": "x"}, "seed: 'x': must be an integer"),
        ({"shape": None}, "shape: missing"),
        ({"shape": {"d_in": 3}}, "the adapter is for"),
        ({"format_version": 9}, "format_version 9; this version reads 1"),
        ({"adapter": {"grouping": "qvk"}}, "Did you mean 'qkv'"),
        ({"more": 1}, "more: unknown key"),
    ],
)
def test_a_broken_description_is_told_and_leaves_the_model_alone(change, says, tmp_path):
    model, _ = FAMILIES["bert"].example()
    adapter = attach(model, SPECS["qkv_depth"])
    adapter.save(tmp_path)
    adapter.detach()
    path = tmp_path / "adapter.json"
    data = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))
    with pytest.raises(UserError, match=says):
        load(model, tmp_path)
    assert attached_adapter(model) is None


@pytest.mark.parametrize(("ranks", "expected"), [(24, 0), (25, 1)])
def test_ranks_beyond_what_the_matrices_can_have_are_warned_of(ranks, expected):
    model, _ = FAMILIES["bert"].example()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        attach(model, AdapterSpec(method="lora", ranks=ranks))
    assert [w.filename for w in found if w.category is RankWarning] == [__file__] * expected


class OwnLinear(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.weight, self.linear = linear.weight, linear


def with_an_adapter_within(model):
    attach(model.base_model, SPECS["lora"])


def with_peft(model):
    import peft

    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["value"]))


def with_a_layer_of_another_kind(model):
    attention = model.base_model.encoder.layer[1].attention.self
    attention.value = OwnLinear(attention.value)


def with_the_adapters_name_taken(model):
    model.tensor_adapter = "mine"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_an_adapter_within, "has an adapter already; detach it"),
        (with_peft, r"value: PEFT has wrapped this layer \(peft.*unload"),
        (with_a_layer_of_another_kind, r"value: expected a torch.nn.Linear to wrap, found .*OwnLinear"),
        (with_the_adapters_name_taken, "already exists"),
    ],
)
def test_a_refused_attach_leaves_the_model_as_it_was(change, says):
    model, _ = FAMILIES["bert"].example()
    change(model)
    modules = dict(model.named_modules())
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    for spec in (SPECS["lora"], SPECS["lora"]):
        with pytest.raises(KeyError if says == "already exists" else UserError, match=says):
            attach(model, spec)
        assert dict(model.named_modules()) == modules
        assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable


def test_no_reference_is_attached_around_an_adapter_or_within_one():
    """A reference wraps no layer, but freezes: the adapter's parameters, too."""
    reference = AdapterSpec(method="head")
    for outer in (True, False):
        model, _ = FAMILIES["bert"].example()
        adapter = attach(model if outer else model.base_model, SPECS["lora"])
        with pytest.raises(UserError, match="has an adapter already"):
            attach(model.base_model if outer else model, reference)
        assert all(p.requires_grad for p in adapter.parameters())


@pytest.mark.parametrize("spec", ["lora", {"method": "lora", "ranks": 2}, None])
def test_what_is_no_specification_is_refused(spec):
    model, _ = FAMILIES["bert"].example()
    with pytest.raises(UserError, match=r"spec: expected an AdapterSpec.*AdapterSpec\(method="):
        attach(model, spec)


def test_detach_leaves_a_layer_that_was_replaced_and_finds_one_that_was_moved():
    model, inputs = FAMILIES["bert"].example()
    adapter = attach(model, SPECS["lora"])
    bases = [wrapped.base for wrapped in adapter.attachment.wrapped.values()]
    own = torch.nn.Linear(24, 24)
    layers = model.base_model.encoder.layer
    layers[1].attention.self.query = own
    del layers[0]
    adapter.detach()
    attention = layers[0].attention.self
    assert attention.query is own
    assert any(attention.key is base for base in bases) and any(attention.value is base for base in bases)
    assert attached_adapter(model) is None and not any(m._forward_pre_hooks for m in model.modules())
    FAMILIES["bert"].logits(model, inputs)
