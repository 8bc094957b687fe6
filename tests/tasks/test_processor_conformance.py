"""Every field of a preprocessor configuration: done as the library's own processor does it, or refused by its name."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tensloradist._torchvision  # noqa: F401 (before timm and torchvision)
from tensloradist import backbones
from tensloradist.backbones.image_processor import MODEL_TYPES, PROCESSORS, read_processor
from tensloradist.errors import UserError
from tensloradist.spec import BackboneSpec, TaskSpec
from tensloradist.tasks import load
from tensloradist.tasks.preprocessing import image_preprocessing

SHAPES = [(40, 32), (37, 23), (16, 16), (9, 31), (25, 27)]
SQUARE, CROP = {"height": 16, "width": 16}, {"height": 12, "width": 12}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of two classes with pictures of several shapes."""
    root = tmp_path_factory.mktemp("pictures")
    for label in ("a", "b"):
        (root / label).mkdir()
        for index, (height, width) in enumerate(SHAPES):
            noise = np.random.default_rng([ord(label), index]).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / label / f"{index}.png")
    return root


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """A backbone's folder with a preprocessor configuration, without weights."""
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))

    def made(fields, model_type="vit", file="preprocessor_config.json", **config):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "image_size": 16, **config}))
        (folder / file).write_text(json.dumps(fields))
        return BackboneSpec(name=str(folder), random_init=True)

    return made


def ours(backbone, pictures):
    """What the model would read of each picture, by the picture's name."""
    loaded = load(TaskSpec(name="images", data=str(pictures)), backbone)
    parts = (loaded.train, loaded.validation, loaded.test)
    return {
        name: pixels.numpy()
        for part in parts
        for name, pixels in zip(part.ids, part.batch(range(len(part)), None)["pixel_values"], strict=True)
    }


def theirs(backbone, pictures, backend="pil"):
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(backbone.name, backend=backend)
    assert processor.backend == backend
    return {
        f"{path.parent.name}/{path.name}": processor(Image.open(path), return_tensors="np")["pixel_values"][0]
        for path in sorted(pictures.glob("*/*.png"))
    }


VIT, DEIT = {"image_processor_type": "ViTImageProcessor"}, {"image_processor_type": "DeiTImageProcessor"}
ACCEPTED = [
    {**VIT, "size": SQUARE},
    {**VIT, "size": 16},
    {**VIT, "size": [16, 16]},
    {**VIT, "size": 20, "default_to_square": False, "do_center_crop": True, "crop_size": 13},
    {**DEIT, "size": {"height": 19, "width": 19}, "crop_size": CROP},
    {**DEIT, "size": {"height": 20, "width": 20}, "crop_size": [13, 13]},
    {**DEIT, "size": {"shortest_edge": 19}, "crop_size": 12},
    {**DEIT, "size": {"shortest_edge": 20}, "crop_size": 16},
    {**DEIT, "size": SQUARE, "do_center_crop": False},
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 20}, "crop_size": 13},
    {"image_processor_type": "BitImageProcessor", "size": 20, "crop_size": 13},
    {"image_processor_type": "ViTImageProcessorFast", "size": SQUARE},
    {"feature_extractor_type": "DeiTFeatureExtractor", "size": 20, "crop_size": 16, "do_center_crop": True},
    {"size": SQUARE},  # the model's own processor
    *({**VIT, "size": SQUARE, "resample": number} for number in range(6)),
    {**DEIT, "size": SQUARE, "do_center_crop": None},  # null is no, and not the default
    {**VIT, "size": SQUARE, "rescale_factor": 1 / 127.5},
    {**VIT, "size": SQUARE, "rescale_factor": 0.00392156862745098},
    {**VIT, "size": SQUARE, "do_rescale": False},
    {**VIT, "size": SQUARE, "do_rescale": False, "do_normalize": False},
    {**VIT, "size": SQUARE, "do_normalize": False},
    {**VIT, "size": SQUARE, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    {**VIT, "size": SQUARE, "image_mean": 0.3, "image_std": 0.2},
    {**VIT, "size": SQUARE, "do_normalize": None, "do_rescale": None, "image_mean": None, "rescale_factor": None},
    {**VIT, "size": SQUARE, "crop_size": CROP},  # without do_center_crop it asks for nothing
    {**VIT, "size": SQUARE, "do_convert_rgb": True},
    {**VIT, "size": SQUARE, "do_convert_rgb": False, "data_format": "channels_first", "input_data_format": None},
    {
        **VIT,
        "size": SQUARE,
        **dict.fromkeys(("do_pad", "do_flip_channel_order", "do_reduce_labels", "do_convert_grayscale"), False),
        **dict.fromkeys(("offset", "rescale_offset", "include_top"), False),
        **dict.fromkeys(("crop_pct", "pad_size", "device", "an_unknown_field"), None),
        "processor_class": "ViTProcessor",
    },
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=json.dumps)
def test_pixels_equal_the_processor_s_own(configured, pictures, fields):
    backbone = configured(fields)
    found, expected = ours(backbone, pictures), theirs(backbone, pictures)
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].shape == expected[name].shape
        assert np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("resample", [2, 3])
def test_the_torchvision_processor_differs_by_rounding_alone(configured, tmp_path, resample):
    smooth = np.indices((40, 33)).sum(0)[..., None] * np.array([3, 2, 1]) % 256
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    Image.fromarray(smooth.astype(np.uint8)).resize((66, 80)).save(tmp_path / "pictures" / "a" / "0.png")
    backbone = configured({**DEIT, "size": {"shortest_edge": 20}, "crop_size": 15, "resample": resample})
    slow, fast = (theirs(backbone, tmp_path / "pictures", backend)["a/0.png"] for backend in ("pil", "torchvision"))
    assert slow.shape == fast.shape and abs(slow - fast).max() * 0.5 * 255 < 2.5


REFUSED = [
    ({"image_processor_type": "ConvNextImageProcessor"}, 'image_processor_type: "ConvNextImageProcessor" is not known'),
    ({"do_resize": False}, "do_resize: false leaves images of different sizes"),
    ({"size": {"height": 16, "width": 12}}, "size: .* is not supported; only squares"),
    ({"size": {"longest_edge": 16}}, "size: .*longest_edge.* is not supported"),
    ({"size": {"shortest_edge": 16, "longest_edge": 20}}, "size: .*longest_edge.* is not supported"),
    ({"size": {"max_height": 16, "max_width": 16}}, "size: .*max_height.* is not supported"),
    ({"size": {"shortest_edge": 16}}, "size: .*without do_center_crop gives images that are not square"),
    ({"size": "16"}, 'size: "16" is not a size'),
    ({"size": -16}, "size: -16 is not a positive whole number"),
    ({"do_center_crop": True}, "crop_size: null is not a size"),
    (
        {"do_center_crop": True, "crop_size": 18},
        "crop_size: 18 would need padding: it resizes images to 16 and crops 18",
    ),
    ({"do_center_crop": True, "crop_size": {"shortest_edge": 12}}, "crop_size: .* is not supported"),
    ({"resample": None}, "resample: null is not one of"),
    ({"image_mean": None}, "image_mean: null is neither a number nor three"),
    ({"rescale_factor": None}, "rescale_factor: null is no number other than 0"),
    ({"do_resize": None}, "do_resize: null leaves images of different sizes"),
    ({"size": None}, "size: null is not a size"),
    ({"resample": 6}, "resample: 6 is not one of Pillow's interpolations"),
    ({"resample": "bicubic"}, 'resample: "bicubic" is not one of'),
    ({"do_rescale": "yes"}, 'do_rescale: "yes" is neither true nor false'),
    ({"rescale_factor": 0}, "rescale_factor: 0 is no number other than 0"),
    ({"image_mean": [0.5]}, r"image_mean: \[0.5\] is neither a number nor three"),
    ({"image_std": [0.5, 0, 0.5]}, "image_std: .* a deviation of 0"),
    ({"crop_pct": 0.9}, "crop_pct: 0.9 is not known"),
    ({"size_divisor": 32}, "size_divisor: 32 is not known"),
    ({"data_format": "channels_last"}, 'data_format: "channels_last" is not supported'),
    *(
        ({field: True}, f"{field}: true is not supported; only false is")
        for field in ("do_pad", "do_flip_channel_order", "do_convert_grayscale", "do_reduce_labels", "do_thumbnail")
    ),
    *(({field: True}, f"{field}: true is not supported") for field in ("rescale_offset", "offset", "include_top")),
    ({"auto_map": {"AutoImageProcessor": "own.Code"}}, "auto_map: .* is not known"),
]


@pytest.mark.parametrize(("change", "says"), REFUSED, ids=lambda value: json.dumps(value))
def test_what_is_not_done_is_refused_by_field_value_and_remedy(configured, change, says):
    backbone = configured({**VIT, "size": 16, **change})
    with pytest.raises(UserError, match=f"{says}.*. Change the file in a copy of the model's folder"):
        image_preprocessing(backbone)
    assert backbones.fingerprint(backbone).endswith("+preprocessing"), "what was passed over is not finished"


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_is_no_configuration_is_named(configured, tmp_path, text):
    backbone = configured(VIT)
    (tmp_path / "model" / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=r"preprocessor_config\.json: (cannot be read as JSON|holds list)"):
        image_preprocessing(backbone)
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"has no readable preprocessor_config\.json"):
        image_preprocessing(backbone)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_defaults_and_the_steps_are_the_installed_library_s(name):
    import transformers.image_processing_backends as library
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    for ending, base in (("", library.TorchvisionBackend), ("Pil", library.PilBackend)):
        processor = get_image_processor_class_from_name(name + ending)
        theirs = {field: getattr(processor, field, None) for field in PROCESSORS[name]}
        assert {field: tuple(v) if isinstance(v, list) else v for field, v in theirs.items()} == PROCESSORS[name]
        assert processor.__mro__[1] is base
        own = {key for key, value in vars(processor).items() if callable(value)} - {"__init__"}
        assert not own, f"{processor.__name__} has steps of its own"


def test_a_model_s_own_processor_is_the_library_s():
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    assert {kind: IMAGE_PROCESSOR_MAPPING_NAMES[kind]["torchvision"] for kind in MODEL_TYPES} == MODEL_TYPES


def test_the_nested_file_is_read_first_and_is_part_of_the_fingerprint(configured, pictures, tmp_path):
    backbone = configured({**VIT, "size": 12})
    plain = backbones.fingerprint(backbone)
    configured({"image_processor": {**VIT, "size": 16}}, file="processor_config.json")
    found, expected = ours(backbone, pictures), theirs(backbone, pictures)
    assert all(np.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    first = backbones.fingerprint(backbone)
    configured({"image_processor": {**VIT, "size": 20}}, file="processor_config.json")
    assert len({plain, first, backbones.fingerprint(backbone)}) == 3
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps({"processor_class": "ViTProcessor"}))
    assert backbones.fingerprint(backbone) == plain, "this one says nothing of images"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**VIT, "size": 224}, ""),
        ({**DEIT}, ""),  # 256 to 224: both roundings cut 16 pixels
        ({**VIT, "size": 16, "do_normalize": False, "image_mean": [0.1, 0.2, 0.3], "resample": 3}, ""),
        ({**VIT, "size": 16, "do_rescale": False}, "+rescale"),
        ({**VIT, "size": 16, "rescale_factor": 0.01}, "+rescale"),
        ({**VIT, "size": 16, "do_convert_rgb": True}, "+white"),
        ({**DEIT, "size": {"height": 19, "width": 19}, "crop_size": 16}, "+crop"),
        ({**DEIT, "size": {"shortest_edge": 20}, "crop_size": 16}, "+crop"),
    ],
)
def test_only_configurations_that_are_read_otherwise_make_a_new_backbone(configured, fields, words):
    fingerprint = backbones.fingerprint(configured(fields))
    assert fingerprint[32:] == words


def test_a_backbone_of_the_hub_is_read_at_its_commit(configured, tmp_path, monkeypatch):
    configured({**VIT, "size": 16, "do_rescale": False})
    commit = "a" * 40
    monkeypatch.setattr(backbones.hub, "commit_of", lambda name, revision: commit)
    monkeypatch.setattr(backbones.hub, "config_folder", lambda name, pinned: tmp_path / "model")
    monkeypatch.setattr(backbones.hub, "optional_file", lambda name, pinned, file: None)
    fingerprint = backbones.fingerprint(BackboneSpec(name="some/vit"))
    assert fingerprint == f"some/vit@{commit}+rescale"
    assert backbones.hub.split_fingerprint(fingerprint, "some/vit") == commit


def test_transparent_pictures_are_laid_on_white_where_the_configuration_says_so(configured, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for index in range(5):
            image = Image.new("RGBA", (16, 16), (10 * index, 20, ord(label), 100))
            image.save(tmp_path / "pictures" / label / f"{index}.png")
    backbone = configured({**VIT, "size": 16, "do_convert_rgb": True})
    found, expected = ours(backbone, tmp_path / "pictures"), theirs(backbone, tmp_path / "pictures")
    assert all(np.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def timm_folder(tmp_path, **pretrained):
    folder = tmp_path / "timm"
    folder.mkdir()
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 2, "model_args": sizes}
    fields = {"input_size": [3, 16, 16], "fixed_input_size": True, "num_classes": 2, **pretrained}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": fields}))
    return BackboneSpec(source="timm", name=str(folder), random_init=True)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"crop_pct": 0.8, "crop_mode": "center"},
        {"crop_pct": 0.8, "crop_mode": "squash"},
        {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        {"interpolation": "lanczos", "fixed_input_size": False, "test_input_size": [3, 24, 24], "test_crop_pct": 1.0},
    ],
    ids=json.dumps,
)
def test_timm_pixels_equal_its_own_transform(tmp_path, monkeypatch, pictures, fields):
    import timm.data
    import torch

    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    backbone = timm_folder(tmp_path, **fields)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=backbones.empty(backbone, 2)))
    for name, pixels in ours(backbone, pictures).items():
        assert torch.allclose(torch.from_numpy(pixels), transform(Image.open(pictures / name)), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"crop_mode": "border"}, "cropped by 'border'"),
        ({"input_size": [3, 16, 8], "fixed_input_size": False}, "3 × 16 × 8"),
        ({"crop_pct": 1.5}, "crop_pct: 1.5 resizes images to 10 and crops 16"),
        ({"interpolation": "random"}, "interpolation: 'random' is not supported"),
        ({"std": [0.5, 0.5]}, "std: .*expected three finite numbers"),
        ({"an_unknown_field": 1}, "timm cannot build .*an_unknown_field"),
    ],
)
def test_what_timm_asks_and_is_not_done_is_refused(tmp_path, fields, says):
    with pytest.raises(UserError, match=says):
        image_preprocessing(timm_folder(tmp_path, **fields))


def test_a_changed_configuration_is_read_again(configured):
    backbone = configured({**VIT, "size": 16})
    assert image_preprocessing(backbone).size == 16
    assert image_preprocessing(configured({**VIT, "size": 24})).size == 24


def test_reading_a_processor_needs_no_library(configured, tmp_path):
    """A plan reads it for every image backbone."""
    configured(VIT)
    shutil.move(tmp_path / "model", tmp_path / "moved")
    assert read_processor(tmp_path / "moved").size == 224
