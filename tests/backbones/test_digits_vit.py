"""The embedded backbone: pretrained once, well, the same every time, and stored whole."""

import os
import subprocess
import sys

import pytest
import torch

from tensloradist import backbones
from tensloradist.backbones import digits_vit
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_tensors
from tensloradist.spec import BackboneSpec

SPEC = BackboneSpec(source="digits_vit", name="digits_vit")
IN_ANOTHER_PROCESS = (
    "from tensloradist.backbones import digits_vit; digits_vit.TRAINING['epochs'] = 1; "
    "print(digits_vit.description()['hash'])"
)


def test_two_processes_at_once_agree_and_leave_one_whole_entry(tmp_path, monkeypatch):
    environment = os.environ | {"TENSLORADIST_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
    monkeypatch.setitem(digits_vit.TRAINING, "epochs", 1)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    (one, *_), (other, *_) = (process.communicate()[0].split() for process in both)
    assert one == other
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path))
    assert digits_vit.description()["hash"] == one, "read, and nothing of the race is left:"
    assert sorted(path.suffix for path in digits_vit.cache_folder().iterdir()) == [".json", ".safetensors"]


def test_it_tells_the_pretraining_classes_apart_on_held_out_images():
    images, labels = digits_vit._digits()
    held_out = torch.arange(len(images)) % digits_vit.HELD_OUT == 0
    model = backbones.load(SPEC, len(digits_vit.CLASSES))
    with torch.no_grad():
        accuracy = (model(images[held_out]).logits.argmax(-1) == labels[held_out]).double().mean().item()
    assert accuracy == digits_vit.description()["held_out_accuracy"] > 0.97


def test_the_backbone_is_the_same_whatever_the_head():
    def backbone(model):
        return hash_tensors({k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")})

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert backbone(backbones.load(SPEC, 5)) == backbone(backbones.load(SPEC, 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_planning_needs_no_pretraining(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "none"))
    assert len(backbones.fingerprint(SPEC)) == 32
    assert backbones.shape_of(SPEC).d_in == backbones.empty(SPEC, 5).config.hidden_size
    assert not (tmp_path / "none").exists()


def test_damaged_weights_are_refused_with_the_file_and_the_remedy(tmp_path, monkeypatch):
    weights, _ = digits_vit._files()
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path))
    damaged, _ = digits_vit._files()
    damaged.parent.mkdir(parents=True)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match=rf"{damaged.name}.*delete the file"):
        backbones.load(SPEC, 5)
    damaged.write_bytes(content[:100])
    with pytest.raises(UserError, match=rf"{damaged.name}.*delete the file"):
        backbones.load(SPEC, 5)


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="TENSLORADIST_CACHE"):
        backbones.load(SPEC, 5)


@pytest.mark.parametrize("changes", [{"name": "digits"}, {"weights": "w.safetensors"}, {"revision": "main"}])
def test_it_has_one_model(changes):
    with pytest.raises(UserError, match="one model, name: digits_vit"):
        backbones.fingerprint(SPEC.model_copy(update=changes))
