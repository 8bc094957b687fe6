"""Preprocessing and augmentation against the libraries whose behaviour they follow."""

import numpy as np
import pytest
import torch
from PIL import Image

import tensloradist._torchvision  # noqa: F401 (before timm and torchvision)
from tensloradist.spec import BackboneSpec, RunSpec, TaskSpec
from tensloradist.tasks import augmentation, load
from tensloradist.tasks.examples import image_backbone, image_folder, image_hub_folder
from tensloradist.tasks.named_images import HUB_IMAGES
from tensloradist.tasks.preprocessing import image_preprocessing


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[(300, 251), (180, 333), (225, 224), (64, 64)])
def image(request):
    # Not so strong that bicubic interpolation overshoots: libraries clip that between their passes, or after them.
    return Image.fromarray(np.random.default_rng(0).integers(96, 160, (*request.param, 3), dtype=np.uint8))


def normalised(how, image):
    pixels = torch.from_numpy(np.asarray(how.resized(image)).transpose(2, 0, 1).copy()).float() / 255
    return (pixels - torch.tensor(how.mean).view(3, 1, 1)) / torch.tensor(how.std).view(3, 1, 1)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_small_patch16_384"])
def test_timm_images_equal_timm_s_own_transform(image, name):
    import timm.data
    from timm.models import get_pretrained_cfg

    how = image_preprocessing(BackboneSpec(source="timm", name=name))
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, get_pretrained_cfg(name).to_dict()))
    assert torch.allclose(normalised(how, image), transform(image), atol=1e-6)


def test_the_four_colour_operations_equal_torchvision_s():
    from torchvision.transforms import functional

    pixels = torch.rand(4, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    pixels[0, :, :3] = pixels[0, :1, :3]  # grey has no hue
    amounts = torch.tensor([0.4, -0.4, 0.13, -0.27]).view(4, 1, 1, 1)
    for ours, theirs, neutral in (
        (augmentation.brightness, functional.adjust_brightness, 1),
        (augmentation.contrast, functional.adjust_contrast, 1),
        (augmentation.saturation, functional.adjust_saturation, 1),
        (augmentation.hue, functional.adjust_hue, 0),
    ):
        expected = torch.stack([theirs(p, neutral + a.item()) for p, a in zip(pixels, amounts, strict=True)])
        assert torch.allclose(ours(pixels, amounts), expected, atol=1e-5), ours.__name__


def run_task(name, **fields):
    adapter = {"method": "lora"}
    return RunSpec(backbone={"name": "b"}, task={"name": name, **fields}, adapter=adapter, protocol="official").task


def test_official_augmentation_is_a_default():
    assert {name: run_task(name).augmentation for name in HUB_IMAGES} == {
        "dtd": "none",
        "eurosat": "flip_jitter",
        "cifar10": "none",
        "cifar100": "none",
        "cub": "flip_jitter",
        "fgvc_aircraft": "flip_jitter",
    }
    assert run_task("eurosat", augmentation="none").augmentation == "none"


@pytest.fixture
def named(tmp_path):
    backbone = image_backbone(tmp_path)

    def loaded(name, protocol):
        (tmp_path / name).mkdir(exist_ok=True)
        data = tmp_path / name / "hub"
        task = image_hub_folder(tmp_path / name, HUB_IMAGES[name]) if not data.exists() else None
        task = (task or TaskSpec(name=name, data=str(data))).model_copy(update={"train_examples": None})
        if name == "dtd" and protocol == "official":
            task = task.model_copy(update={"train_examples": 12})
        return load(task, backbone, protocol)

    return loaded


def sizes(loaded):
    return len(loaded.train), len(loaded.validation), len(loaded.test)


def sources(part):
    return {name.split("/")[0] for name in part.ids}


def test_named_sets_are_split_as_the_protocol_says(named):
    assert sizes(named("eurosat", "sound")) == (30, 30, 30)
    eurosat = named("eurosat", "official")
    assert sizes(eurosat) == (72, 18, 18) and sources(eurosat.train) == {"train", "validation", "test"}
    aircraft = named("fgvc_aircraft", "official")
    assert sources(aircraft.train) == {"train", "validation"} and sources(aircraft.test) == {"test"}
    assert sizes(named("cub", "sound")) == (24, 6, 30)
    assert sizes(named("dtd", "official")) == (12, 30, 30)


def test_only_the_official_preprocessing_of_some_sets_normalises(named):
    def normalises(name):
        return named(name, "official").test.batch(range(9), None)["pixel_values"].min() < 0

    assert {name for name in HUB_IMAGES if normalises(name)} == {"cifar10", "cifar100", "cub"}


def test_tasks_on_one_copy_do_not_share_pixels(tmp_path):
    """Of the same files, eurosat reads a validation split between train and test, which dtd passes over."""
    task, backbone = image_hub_folder(tmp_path, HUB_IMAGES["eurosat"]), image_backbone(tmp_path)
    task = task.model_copy(update={"train_examples": None})
    first, second = (load(task.model_copy(update={"name": name}), backbone).test for name in ("eurosat", "dtd"))
    assert first.ids == second.ids == [f"test/{i}" for i in range(30)]
    pixels = [part.batch(range(30), None)["pixel_values"] for part in (first, second)]
    assert torch.equal(*pixels)


def test_a_folder_is_resized_officially_by_224_and_not_normalised(tmp_path):
    task, backbone = image_folder(tmp_path), image_backbone(tmp_path)
    pixels = load(task, backbone, "official").train.batch([0], None)["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16) and pixels.min() >= 0 and pixels.max() <= 1
