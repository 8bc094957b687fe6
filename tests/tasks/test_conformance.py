"""What every registered task keeps, on tiny data that it describes itself: split, batches, metrics, reproducibility."""

from dataclasses import replace

import numpy as np
import plugin_task  # noqa: F401 (registers itself)
import pytest
import torch

from tensloradist import backbones
from tensloradist.backbones import LANGUAGE_MODEL, family_of
from tensloradist.errors import UserError
from tensloradist.metrics import METRICS
from tensloradist.tasks import TASKS, load


@pytest.fixture(params=sorted(TASKS))
def case(request, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    entry = TASKS[request.param]
    task, backbone = entry.example(tmp_path)
    return entry, task.model_copy(update={"fingerprint": entry.fingerprint(task)}), backbone


@pytest.mark.parametrize("protocol", ["sound", "official"])
def test_a_task_keeps_its_promises(case, protocol):
    entry, task, backbone = case
    if protocol == "official" and entry.name == "dtd":
        task = task.model_copy(update={"train_examples": 12})
    loaded, again = load(task, backbone, protocol), load(task, backbone, protocol)
    assert loaded.kind == entry.kind and entry.has_head == (loaded.num_labels != LANGUAGE_MODEL)
    assert entry.num_labels(task) == loaded.num_labels == (1 if loaded.regression else loaded.num_labels)
    assert loaded.data_fingerprint == task.fingerprint
    named = not loaded.regression and loaded.num_labels != LANGUAGE_MODEL
    assert len(set(loaded.classes)) == len(loaded.classes) == (loaded.num_labels if named else 0)
    assert loaded.split_fingerprint == again.split_fingerprint
    parts = {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}
    ids = {name: set(part.ids) for name, part in parts.items()}
    for name, part in parts.items():
        assert len(part) == len(part.ids) == len(part.labels) == len(ids[name]) > 0
        assert part.labels.dtype == (np.float32 if loaded.regression else np.int64)
        if loaded.num_labels == LANGUAGE_MODEL:
            assert part.labels.min() > 0 and np.array_equal(part.terms, part.labels)
            assert part.terms_of() == part.terms_of(np.arange(len(part))) == part.labels.sum()
        elif not loaded.regression:
            assert part.labels.min() >= 0 and part.labels.max() < loaded.num_labels
        assert part.lengths is None or (len(part.lengths) == len(part) and part.lengths.min() > 0)
    assert not ids["train"] & ids["test"] and not ids["train"] & ids["validation"]
    assert ids["validation"] == ids["test"] if protocol == "official" else not ids["validation"] & ids["test"]

    inputs, same = loaded.train.batch([0, 3, 1], (5, 2)), again.train.batch([0, 3, 1], (5, 2))
    assert inputs.keys() == same.keys() and all(torch.equal(inputs[k], same[k]) for k in inputs)
    assert all(len(value) == 3 for value in inputs.values())
    if backbone.source == "digits_vit":  # else it is pretrained into each test's own cache
        backbone = backbone.model_copy(update={"random_init": True})
    model = backbones.load(backbone, loaded.num_labels)
    with torch.no_grad():
        logits = family_of(model).logits(model, inputs)
    assert logits.shape == (3, loaded.num_labels or 3) and torch.isfinite(logits).all()

    labels = loaded.test.labels
    if loaded.num_labels == LANGUAGE_MODEL:
        perfect = np.stack([np.zeros(len(labels)), labels, np.ones(len(labels))], axis=1)
    else:
        perfect = labels[:, None] if loaded.regression else np.eye(loaded.num_labels, dtype=np.float32)[labels]
    scores = loaded.metrics(perfect.astype(np.float32), labels)
    assert tuple(scores) == loaded.metric_names and loaded.primary_metric == loaded.metric_names[0]
    for name, score in scores.items():
        assert score == pytest.approx(METRICS[name].range[METRICS[name].higher_is_better]), "the best of its range"


def test_a_score_must_be_better_when_it_is_higher(tmp_path):
    entry = TASKS["digits"]
    loaded = load(*entry.example(tmp_path))
    with pytest.raises(UserError, match="its score is perplexity, which is better when it is lower"):
        replace(loaded, primary_metric="perplexity", metric_names=("perplexity", "accuracy"))


def test_the_fingerprint_is_of_content_not_of_place(case, tmp_path):
    import shutil

    entry, task, _ = case
    if task.data is None:
        pytest.skip("embedded data has no place")
    copy = shutil.copytree(task.data, tmp_path / "elsewhere" / "copy")
    assert entry.fingerprint(task.model_copy(update={"data": str(copy)})) == task.fingerprint
    victim = next(p for p in sorted(copy.rglob("*")) if p.is_file())
    victim.write_bytes(victim.read_bytes() + b" ")
    assert entry.fingerprint(task.model_copy(update={"data": str(copy)})) != task.fingerprint


def test_a_hub_data_sets_own_names_of_its_labels_are_the_classes(tmp_path, monkeypatch):
    from datasets import ClassLabel, Dataset

    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    task, backbone = TASKS["cifar10"].example(tmp_path)
    names = [f"kind {number}" for number in range(10)]
    for path in (tmp_path / "hub").rglob("*.parquet"):
        data = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "read"))
        data.cast_column("label", ClassLabel(names=names)).to_parquet(str(path))
    assert load(task, backbone).classes == tuple(names)
