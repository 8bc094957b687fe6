"""Images and text: the real data sets, splits, augmentation, and what is refused."""

import errno
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from tensloradist.errors import UserError
from tensloradist.spec import BackboneSpec, TaskSpec
from tensloradist.tasks import load, task_named
from tensloradist.tasks.base import describe_parts
from tensloradist.tasks.examples import (
    glue_folder,
    image_backbone,
    image_folder,
    language_backbone,
    language_folder,
    text_backbone,
)
from tensloradist.tasks.glue import GLUE_TASKS
from tensloradist.tasks.image_pixels import decoded
from tensloradist.tasks.preprocessing import image_preprocessing


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    return glue_folder(tmp_path, GLUE_TASKS["mrpc"]), text_backbone(tmp_path)


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path), image_backbone(tmp_path)


def test_dtd10_is_split_stratified_and_normalised_as_the_backbone_expects(data_root):
    task = TaskSpec(name="images", data=str(data_root / "data/dtd10"))
    loaded = load(task, BackboneSpec(name=str(data_root / "models/deit_tiny")))
    assert (len(loaded.train), len(loaded.validation), len(loaded.test), loaded.num_labels) == (720, 240, 240, 10)
    assert (np.bincount(loaded.train.labels) == 72).all() and (np.bincount(loaded.test.labels) == 24).all()
    pixels = loaded.train.batch([0, 300, 719], None)["pixel_values"]
    images = [Image.open(data_root / "data/dtd10" / loaded.train.ids[i]) for i in (0, 300, 719)]
    processor = AutoImageProcessor.from_pretrained(data_root / "models/deit_tiny")
    expected = processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
    # The processor resizes through torchvision, which may differ from Pillow by a grey level or two of 255.
    assert pixels.shape == expected.shape and (pixels - expected).abs().max() < 2.5 / 255 / 0.224
    official = load(task, BackboneSpec(name=str(data_root / "models/deit_tiny")), "official")
    raw = official.train.batch(range(8), None)["pixel_values"]
    assert raw.min() >= 0 and raw.max() <= 1, "the official protocol does not normalise"


def test_tasks_that_read_other_fields_of_one_file_do_not_share_tokens(tmp_path):
    task, backbone = glue_folder(tmp_path, GLUE_TASKS["qnli"]), text_backbone(tmp_path)
    both = load(task, backbone).train.batch([0], None)["input_ids"]
    alone = load(task.model_copy(update={"name": "sst2"}), backbone).train.batch([0], None)["input_ids"]
    assert both.shape[1] > alone.shape[1], "the sentence without its question"


def test_mrpc_is_padded_to_the_batch(data_root):
    task = TaskSpec(name="mrpc", data=str(data_root / "data/mrpc"))
    loaded = load(task, BackboneSpec(name=str(data_root / "models/minilm_l6")))
    assert (len(loaded.train) + len(loaded.validation), len(loaded.test)) == (3668, 408)
    shortest = np.argsort(loaded.train.lengths)[:8]
    inputs = loaded.train.batch(shortest, None)
    assert inputs["input_ids"].shape[1] == loaded.train.lengths[shortest].max() < 40
    assert (inputs["attention_mask"].sum(1).numpy() == loaded.train.lengths[shortest]).all()
    assert loaded.train.lengths.max() <= 110


def test_the_split_depends_on_split_seed_alone(images):
    task, backbone = images
    ids = [load(task.model_copy(update={"split_seed": s}), backbone).test.ids for s in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_own_splits_of_a_folder_are_kept(tmp_path, images):
    task, backbone = images
    (tmp_path / "own").mkdir()
    for part in ("train", "val", "test"):
        image_folder(tmp_path / "own" / f"_{part}", each=4)
        (tmp_path / "own" / f"_{part}" / "images").rename(tmp_path / "own" / part)
        (tmp_path / "own" / f"_{part}").rmdir()
    loaded = load(task.model_copy(update={"data": str(tmp_path / "own")}), backbone)
    assert all(i.startswith("train/") for i in loaded.train.ids) and len(loaded.train) == 12
    assert all(i.startswith("val/") for i in loaded.validation.ids)
    assert all(i.startswith("test/") for i in loaded.test.ids)


def test_augmentation_is_keyed_by_seed_epoch_and_example(images):
    task, backbone = images
    train = load(task.model_copy(update={"augmentation": "flip_jitter"}), backbone).train

    def pixels(indices, key):
        return train.batch(indices, key)["pixel_values"]

    for epoch in range(6):
        alone, among = pixels([4], (0, epoch)), pixels([2, 4, 7], (0, epoch))
        assert torch.equal(alone[0], among[1]), "what an example looks like must not depend on its batch"
    assert len({pixels([4], (0, epoch)).numpy().tobytes() for epoch in range(12)}) > 4
    assert len({pixels([4], (seed, 0)).numpy().tobytes() for seed in range(12)}) > 4
    assert torch.equal(train.batch([4], None)["pixel_values"], train.batch([4], None)["pixel_values"])


def test_decoding_on_the_fly_equals_the_cache(images, monkeypatch):
    task, backbone = images
    cached = load(task, backbone).train.batch([0, 5], None)["pixel_values"]
    monkeypatch.setattr("tensloradist.tasks.image_pixels.CACHE_SHARE", 0)
    assert torch.equal(load(task, backbone).train.batch([0, 5], None)["pixel_values"], cached)


@pytest.mark.parametrize("augmentation", ["none", "flip", "flip_jitter"])
def test_pictures_travel_as_bytes_and_are_finished_on_the_device(images, augmentation):
    task, backbone = images
    train = load(task.model_copy(update={"augmentation": augmentation}), backbone).train
    read, finished = train.read(range(12), (0, 1)), train.batch(range(12), (0, 1))["pixel_values"]
    assert read.tensors["pixels"].dtype == torch.uint8 and read.tensors["pixels"].shape == finished.shape
    rest = sum(value.nbytes for name, value in read.tensors.items() if name != "pixels")
    assert rest < 1000, "of the augmentation, what was drawn; of the normalisation, its six numbers"
    elsewhere = {name: value.clone() for name, value in read.tensors.items()}
    assert torch.equal(read.inputs(elsewhere)["pixel_values"], finished)
    assert torch.equal(read.inputs()["pixel_values"], finished), "what was read is not used up"


def free_space(monkeypatch, task, backbone, pictures):
    """Let the cache's disk have room for so many of its pictures twice."""
    size = image_preprocessing(backbone).size
    free = int(2 * pictures * 3 * size**2)
    monkeypatch.setattr("tensloradist.tasks.image_pixels.shutil.disk_usage", lambda path: SimpleNamespace(free=free))


def test_pixels_are_cached_where_the_disk_has_room(images, monkeypatch, caplog, tmp_path):
    task, backbone = images
    free_space(monkeypatch, task, backbone, 29)
    without = load(task, backbone).train.batch([0, 5], None)["pixel_values"]
    assert "no room for 0.0 GiB of decoded images" in caplog.text and "set TENSLORADIST_CACHE" in caplog.text
    assert not list(tmp_path.glob("cache/images/*"))
    free_space(monkeypatch, task, backbone, 30)
    caplog.clear()
    assert torch.equal(load(task, backbone).train.batch([0, 5], None)["pixel_values"], without)
    assert len(list(tmp_path.glob("cache/images/*/pixels.npy"))) == 1 and not caplog.text
    free_space(monkeypatch, task, backbone, 0)
    load(task, backbone)
    assert not caplog.text, "what is there takes no more room"


def test_a_disk_that_fills_up_while_decoding_is_said_and_the_images_decoded_each_time(
    images, monkeypatch, caplog, tmp_path
):
    task, backbone = images

    def full(items, make, threads=1):
        yield make(0)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr("tensloradist.tasks.image_pixels.prefetch", full)
        without = load(task, backbone).train.batch([0, 5], None)["pixel_values"]
    assert "(Disk quota exceeded): they are decoded anew in every epoch" in caplog.text
    assert not list(tmp_path.glob("cache/images/*")), "nothing is left over"
    assert torch.equal(load(task, backbone).train.batch([0, 5], None)["pixel_values"], without)


def test_workers_that_start_at_once_decode_the_images_once(images, monkeypatch):
    task, backbone = images
    asked = []

    def slowly(listing, index, *how):
        asked.append(index)
        time.sleep(0.002)
        return decoded(listing, index, *how)

    monkeypatch.setattr("tensloradist.tasks.image_pixels.decoded", slowly)
    with ThreadPoolExecutor(3) as workers:
        loaded = list(workers.map(lambda _: load(task, backbone), range(3)))
    assert sorted(asked) == list(range(30))
    assert len({part.train.batch([3], None)["pixel_values"].numpy().tobytes() for part in loaded}) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_the_cache_is_the_same_whatever_the_number_of_threads(images, monkeypatch, tmp_path, threads):
    task, backbone = images
    monkeypatch.setattr("tensloradist.tasks.image_pixels.threads_here", lambda: threads)
    load(task, backbone)
    pixels = np.load(next(tmp_path.glob("cache/images/*/pixels.npy")))
    assert pixels.dtype == np.uint8 and pixels.shape == (30, 3, 16, 16)
    how = image_preprocessing(backbone)
    for row, file in zip(pixels, sorted(Path(task.data).rglob("*.png")), strict=True):
        with Image.open(file) as picture:
            assert np.array_equal(row, np.asarray(how.resized(picture.convert("RGB"))).transpose(2, 0, 1))


def test_a_picture_replaced_under_a_loaded_task_is_never_trained_on(images, tmp_path, monkeypatch):
    task, backbone = images
    folder = tmp_path / "copy"
    shutil.copytree(str(task.data), folder)
    task = task.model_copy(update={"data": str(folder)})
    monkeypatch.setattr("tensloradist.tasks.image_pixels.CACHE_SHARE", 0)
    train = load(task, backbone).train
    first = folder / train.ids[0]
    Image.new("RGB", (20, 20), "red").save(first)
    with pytest.raises(UserError, match=rf"the image {train.ids[0]} was replaced while the data was in use"):
        train.batch([0], None)
    train.batch([1], None)
    (folder / train.ids[1]).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot be read \(its content is not a picture in a format that .* knows\)"):
        load(task, backbone).train.batch([1], None)


def test_official_text_is_joined_and_padded_to_512(data_root):
    task = TaskSpec(name="mrpc", data=str(data_root / "data/mrpc"), max_length=512)
    loaded = load(task, BackboneSpec(name=str(data_root / "models/minilm_l6")), "official")
    assert loaded.train.batch([0, 1], None)["input_ids"].shape == (2, 512)
    assert loaded.train.lengths is None and loaded.validation.ids == loaded.test.ids


def write_line(task, line, split="train", at=3):
    path = Path(task.data) / f"{split}.jsonl"
    lines = path.read_text().splitlines()
    lines[at] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{broken", r"train\.jsonl:4: not a line of JSON"),
        ("3", r"train\.jsonl:4: not a line of JSON"),
        (json.dumps({"sentence1": "a", "sentence2": "b", "label": 2, "idx": 0}), r"label 2, out of range 0\.\.1"),
        (json.dumps({"sentence1": "a", "sentence2": None, "label": 1, "idx": 0}), "sentence2 = None; expected a text"),
        (
            json.dumps({"sentence1": "a", "sentence2": "b", "label": 0.5, "idx": 0}),
            r"jsonl:4: label 0\.5; expected an int",
        ),
        (json.dumps({"sentence1": "a", "sentence2": "b", "label": True, "idx": 0}), "label True; expected an integer"),
        (json.dumps({"sentence1": "a", "label": 1, "idx": 0}), r"train\.jsonl:4: no field 'sentence2'"),
        (json.dumps({"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0}), "several examples have idx 0"),
        ("\udcff", r"train\.jsonl:4: not UTF-8 text"),
    ],
)
def test_bad_text_names_file_and_value(text, line, says):
    task, backbone = text
    write_line(task, line)
    with pytest.raises(UserError, match=says):
        load(task, backbone)


def test_bad_images_name_the_file(images):
    task, backbone = images
    (Path(task.data) / "class1" / "04.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"class1/04\.png cannot be read"):
        load(task, backbone)
    for path in (Path(task.data) / "class1").iterdir():
        path.unlink()
    for path in (Path(task.data) / "class2").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="only the class 'class0'"):
        load(task, backbone)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "/nowhere/at/all"}, "no such folder"),
        ({"data": None}, "missing"),
        ({"train_examples": 1000}, "train_examples: 1000 exceeds the 18"),
        ({"fingerprint": "other"}, "has changed since"),
        ({"revision": "main"}, "task.revision: 'main' means a revision on the Hub"),
        ({"max_length": 8}, "task.max_length: 8 is for text"),
    ],
)
def test_bad_image_specs(images, change, says):
    task, backbone = images
    with pytest.raises(UserError, match=says):
        load(task.model_copy(update=change), backbone)


def test_text_longer_than_the_backbone_takes_is_refused(text):
    task, backbone = text
    with pytest.raises(UserError, match=r"task\.max_length: 65 exceeds the 64 tokens"):
        load(task.model_copy(update={"max_length": 65}), backbone)
    assert load(task.model_copy(update={"max_length": 6}), backbone).train.lengths.max() == 6


def test_an_empty_jsonl_is_named(text):
    task, backbone = text
    (Path(task.data) / "validation.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"validation\.jsonl: no examples"):
        load(task, backbone)


def test_a_batch_of_text_is_the_tokenizer_s_own(text):
    from transformers import AutoTokenizer

    task, backbone = text
    train = load(task, backbone).train
    rows = [json.loads(line) for line in (Path(task.data) / "train.jsonl").read_text().splitlines()]
    wanted = [4, 0, 11]
    chosen = [rows[int(train.ids[i].removeprefix("train-"))] for i in wanted]
    expected = AutoTokenizer.from_pretrained(backbone.name)(
        [row["sentence1"] for row in chosen], [row["sentence2"] for row in chosen], padding=True, return_tensors="pt"
    )
    found = train.batch(wanted, None)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_kinds_must_fit(images, text):
    with pytest.raises(UserError, match="mrpc is a text task"):
        load(text[0], images[1])
    with pytest.raises(UserError, match="is an image task"):
        load(images[0], text[1])
    with pytest.raises(UserError, match="made for backbone source digits_vit"):
        load(TaskSpec(name="digits"), images[1])
    with pytest.raises(UserError, match="Did you mean 'mrpc'"):
        task_named("mprc")


@pytest.mark.parametrize("protocol", ["sound", "official"])
def test_texts_that_were_drawn_to_train_are_said_to_be(tmp_path, protocol):
    pairs = [
        (glue_folder(tmp_path, GLUE_TASKS["mrpc"]), text_backbone(tmp_path)),
        (language_folder(tmp_path), language_backbone(tmp_path)),
    ]
    for task, backbone in pairs:
        whole = len(load(task, backbone, protocol).train)
        drawn = task.model_copy(update={"train_examples": 3})
        loaded = load(drawn, backbone, protocol)
        assert len(loaded.train) == 3 and loaded.origin.endswith(f"; 3 of {whole} drawn to train")
        assert task_named(task.name).parts(drawn, protocol) == describe_parts(loaded)
