"""A file that is replaced, its size and times kept, as `cp -p`, `rsync -t` and `tar` do: the new one is read."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from tensloradist import backbones, tasks
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_path
from tensloradist.identity import resolve
from tensloradist.spec import BackboneSpec, RunSpec, TaskSpec
from tensloradist.spectra import spectra_of
from tensloradist.tasks.examples import image_backbone, language_backbone, text_backbone
from tensloradist.tasks.preprocessing import image_preprocessing, tokenizer_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


def put(path, content):
    """Write the file; if it is there already, in place, with as many bytes and the times that it had."""
    content = content if isinstance(content, bytes) else content.encode()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))
        return
    before = path.stat()
    assert len(content) == before.st_size and content != path.read_bytes()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def put_glue(folder, flipped):
    for name in ("train", "validation"):
        rows = [{"sentence": ("cat", "dog")[(i + flipped) % 2], "label": (i + flipped) % 2} for i in range(40)]
        put(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return TaskSpec(name="sst2", data=str(folder))


def put_pairs(path, flipped):
    rows = [{"prompt": "q: ", "answer": ("yes", "n")[(i + flipped) % 2]} for i in range(40)]
    put(path, "".join(json.dumps(row) + "\n" for row in rows))
    return TaskSpec(name="causal_lm", data=str(path))


def put_images(folder, flipped):
    """A local copy of CIFAR-10 in the Hub's layout, without compression: equal sizes."""
    import io

    from PIL import Image

    for number, split in enumerate(("train", "test")):
        images = []
        for index in range(30):
            buffer = io.BytesIO()
            Image.new("RGB", (24, 24), ((index * 8) % 256, number * 99, 0)).save(buffer, "BMP")
            images.append({"bytes": buffer.getvalue(), "path": None})
        labels = pyarrow.array([(index + flipped) % 2 for index in range(30)], pyarrow.int64())
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        table = pyarrow.table({"img": pyarrow.array(images, kind), "label": labels})
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink, compression="none", use_dictionary=False)
        put(folder / "data" / f"{split}-00000-of-00001.parquet", sink.getvalue().to_pybytes())
    return TaskSpec(name="cifar10", data=str(folder))


KINDS = {
    "glue": (put_glue, "glue", text_backbone),
    "answers": (put_pairs, "pairs.jsonl", language_backbone),
    "images": (put_images, "cifar10", image_backbone),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_replaced_data_is_read_anew_in_one_process(tmp_path, kind):
    write, name, make_backbone = KINDS[kind]
    backbone = make_backbone(tmp_path)
    loaded = [tasks.load(write(tmp_path / name, flipped), backbone) for flipped in (0, 1)]
    elsewhere = tasks.load(write(tmp_path / "elsewhere" / name, 1), backbone)
    assert loaded[0].data_fingerprint != loaded[1].data_fingerprint == elsewhere.data_fingerprint
    assert not np.array_equal(loaded[0].test.labels, loaded[1].test.labels)
    for part in ("train", "validation", "test"):
        found, expected = getattr(loaded[1], part), getattr(elsewhere, part)
        assert np.array_equal(found.labels, expected.labels)
        found, expected = (data.batch(np.arange(len(data)), None) for data in (found, expected))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


SCRIPT = """
import json, sys
from tensloradist import tasks
from tensloradist.spec import BackboneSpec, TaskSpec

for name, data, backbone in json.loads(sys.argv[1]):
    loaded = tasks.load(TaskSpec(name=name, data=data), BackboneSpec(**backbone))
    print(json.dumps([loaded.data_fingerprint, loaded.test.labels.tolist()]))
"""


@pytest.mark.evidence
def test_replaced_data_is_read_anew_across_processes(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    made = {kind: make(tmp_path) for kind, (_, _, make) in KINDS.items()}
    found = {}
    for place, flipped in (("here", 0), ("here", 1), ("elsewhere", 1)):
        specs = [(write(tmp_path / place / name, flipped), made[kind]) for kind, (write, name, _) in KINDS.items()]
        asked = json.dumps([(task.name, task.data, backbone.model_dump()) for task, backbone in specs])
        command = [sys.executable, "-c", SCRIPT, asked]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found[place, flipped] = done.stdout.splitlines()[-3:]
    assert found["here", 1] == found["elsewhere", 1]
    assert not set(found["here", 0]) & set(found["here", 1])


def flip_bytes(path):
    """Other weights, in place: the last byte of every float32 of the file's second half, which is all weights."""
    content = bytearray(path.read_bytes())
    for index in range(len(content) - len(content) // 2 // 4 * 4, len(content), 4):
        content[index] ^= 1
    put(path, bytes(content))


def parameters(spec):
    return {name: value.clone() for name, value in backbones.load(spec, 2).state_dict().items()}


def test_a_replaced_backbone_is_loaded_anew(tmp_path):
    spec = text_backbone(tmp_path)
    folder = Path(spec.name)
    before, fingerprint = parameters(spec), backbones.fingerprint(spec)
    flip_bytes(folder / "model.safetensors")
    after = parameters(spec)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert backbones.fingerprint(spec) != fingerprint
    with pytest.raises(UserError, match=r"has changed since the run was planned"):
        backbones.load(spec.model_copy(update={"fingerprint": fingerprint}), 2)

    heads = backbones.shape_of(spec).heads
    config = (folder / "config.json").read_text()
    put(folder / "config.json", config.replace('"num_attention_heads": 2', '"num_attention_heads": 3'))
    assert (heads, backbones.shape_of(spec).heads) == (2, 3)

    words = tokenizer_of(spec)("cat dog")["input_ids"]
    tokenizer = (folder / "tokenizer.json").read_text()
    swapped = tokenizer.replace('"cat"', '"???"').replace('"dog"', '"cat"').replace('"???"', '"dog"')
    put(folder / "tokenizer.json", swapped)
    assert tokenizer_of(spec)("dog cat")["input_ids"] == words


def test_replaced_preprocessing_is_read_anew(tmp_path):
    spec = image_backbone(tmp_path)
    path = Path(spec.name) / "preprocessor_config.json"
    mean = image_preprocessing(spec).mean
    put(path, path.read_text().replace("0.5", "0.4"))
    assert mean != image_preprocessing(spec).mean


def test_loaded_weights_do_not_follow_their_file(tmp_path):
    from transformers import DeiTConfig, DeiTForImageClassification

    path = tmp_path / "deit"
    config = DeiTConfig(image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2)
    DeiTForImageClassification(config).save_pretrained(path)
    model = backbones.load(BackboneSpec(name=str(path)), 1000)
    before = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    flip_bytes(path / "model.safetensors")
    assert before == {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_a_spectrum_is_of_the_data_that_is_there(tmp_path):
    backbone = text_backbone(tmp_path)
    found = []
    for place, flipped in (("here", 0), ("here", 1), ("elsewhere", 1)):
        task = put_glue(tmp_path / place, flipped)
        spec = RunSpec.model_validate(
            {
                "backbone": backbone.model_dump(),
                "task": {**task.model_dump(), "train_examples": 7},
                "adapter": {"grouping": "qkv_depth"},
                "optimizer": {"batch_size": 4},
            }
        )
        found.append(spectra_of(resolve(spec)))
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize("settled", [-30.0, 30.0], ids=["remembered", "not remembered yet"])
def test_a_hash_is_of_the_content_whatever_the_times_say(tmp_path, monkeypatch, settled):
    monkeypatch.setattr("tensloradist.fingerprint._SETTLED", settled)
    path = tmp_path / "file"
    put(path, "one")
    before = hash_path(path)
    assert hash_path(path) == before
    time.sleep(0.05)  # longer than a tick of the file system's clock, within which a file is not remembered
    put(path, "two")
    assert hash_path(path) != before
    os.replace(_moved_in(tmp_path, path), path)
    assert hash_path(path) == before


def _moved_in(folder, path):
    """Another file of the same size and times, as rsync and tar put it in a file's place."""
    other = folder / "other"
    other.write_text("one")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    return other
