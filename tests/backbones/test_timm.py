"""timm: which attention is adapted, which is refused, and where weights come from."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tensloradist import backbones
from tensloradist._torchvision import declare_missing_operators
from tensloradist.errors import UserError
from tensloradist.spec import BackboneSpec

declare_missing_operators()
import timm  # noqa: E402  (needs the line above beside a CPU torch)

TINY = "vit_tiny_patch16_224"


def spec(name=TINY, **changes):
    return BackboneSpec(source="timm", name=name, **changes)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of the architecture, as timm would save it."""
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(TINY, num_classes=11).state_dict(), path)
    return path


def edited(weights, tmp_path, change):
    state = load_file(weights)
    change(state)
    path = tmp_path / "edited.safetensors"
    save_file(state, path)
    return str(path)


def test_a_local_weights_file_loads_with_another_head(weights):
    model = backbones.load(spec(weights=str(weights)), 3)
    expected = load_file(weights)
    for name, value in model.state_dict().items():
        assert name.startswith("head.") or torch.equal(value, expected[name])
    assert model.head.out_features == 3
    assert torch.equal(backbones.load(spec(weights=str(weights)), 11).head.weight, expected["head.weight"])


def test_a_local_folder_loads_as_the_weights_file_does(weights, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": TINY, "num_classes": 11}))
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    folder, file = spec(str(tmp_path)), spec(weights=str(weights))
    first, second = backbones.load(folder, 3), backbones.load(file, 3)
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert name.startswith("head.") or torch.equal(one, other)
    assert backbones.shape_of(folder) == backbones.shape_of(file)


def test_the_identity_is_of_the_architecture_and_the_weights_not_of_the_path(weights, tmp_path):
    copied = tmp_path / "copied.safetensors"
    copied.write_bytes(weights.read_bytes())
    first = backbones.fingerprint(spec(weights=str(weights)))
    assert first == backbones.fingerprint(spec(weights=str(copied)))
    assert first != backbones.fingerprint(spec("deit_tiny_patch16_224", weights=str(copied)))
    changed = edited(weights, tmp_path, lambda state: state["head.bias"].add_(1))
    assert first != backbones.fingerprint(spec(weights=changed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.3.attn.qkv.weight"), r"checkpoint lacks them: blocks\.3\.attn\.qkv\.weight"),
        (lambda s: s.update({"blocks.3.norm1.weight": torch.ones(5)}), r"another shape.*: blocks\.3\.norm1\.weight"),
        (lambda s: s.update({"stranger": torch.ones(5)}), "not in the model: stranger"),
    ],
)
def test_other_weights_than_the_architectures_are_refused_by_name(weights, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        backbones.load(spec(weights=edited(weights, tmp_path, change)), 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "WindowAttention is not timm's standard attention"),
        ("beit_base_patch16_224", r"beit\.Attention is not timm's standard attention"),
        ("eva02_tiny_patch14_224", "EvaAttention is not timm's standard attention"),
        ("vit_dlittle_patch16_reg1_gap_256", "DiffAttention is not timm's standard attention"),
        ("pit_xs_224", r"in stages.*transformers\.\*\.blocks\.\*\.attn\.qkv \(12\)"),
        ("resnet18", r"No attention projections found in ResNet.*Its linear layers are: fc\."),
        ("vit_tiny_patch16_24", "timm has no model 'vit_tiny_patch16_24'; near: .*vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.nope", r"does not know the tag.*\(nope\)"),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=reason):
        backbones.shape_of(spec(name))


@pytest.mark.parametrize(
    ("weights", "message"),
    [("missing.safetensors", "no file"), ("some.pth", "not a safetensors file"), ("no.safetensors", "cannot be read")],
)
def test_a_weights_file_that_cannot_be_read_is_named(tmp_path, weights, message):
    for name in ("some.pth", "no.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(UserError, match=f"{weights}.*{message}|{message}.*{weights}"):
        backbones.load(spec(weights=str(tmp_path / weights)), 3)


def test_the_shape_needs_no_weights_and_no_hub():
    shape = backbones.shape_of(spec("vit_base_patch16_224.augreg_in1k"))
    assert (shape.d_in, shape.d_out, shape.heads, shape.layers) == (768, 768, 12, 12)
