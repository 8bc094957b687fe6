"""A warm process: its next run loads and hashes nothing again in any precision, and is the cold one to the bit."""

import gc
import time
import weakref

import numpy as np
import pytest
import torch

from tensloradist import backbones
from tensloradist.adapter import attach
from tensloradist.adapter.attachment import Attachment
from tensloradist.backbones import family_of
from tensloradist.backbones.base import FAMILIES
from tensloradist.backbones.task_head import head_parameters
from tensloradist.fingerprint import checksum
from tensloradist.identity import resolve
from tensloradist.results.control import RunControl, Stopped
from tensloradist.spec import AdapterSpec, RunSpec
from tensloradist.training import build, frozen, loop, train, warm
from tensloradist.training import run as training_run

BF16 = {"precision": "bf16"}
INT8 = {"backbone": {"source": "digits_vit", "name": "digits_vit", "quantization": "int8"}}
NF4_BF16 = {"backbone": {"source": "digits_vit", "name": "digits_vit", "quantization": "nf4"}, **BF16}
FULL = {"adapter": {"method": "full"}}


def spec(**changes):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits", "train_examples": 8},
        "adapter": {"grouping": "qkv_depth", "ranks": 2},
        "optimizer": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2},
        "compute": {"device": "cpu", "threads": 1},
    }
    return resolve(RunSpec.model_validate({**data, **changes}))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains a spec; returns its adapter's and head's bits and what its result says beside times and memory."""

    def predict(accelerator, model, family, part, *_):  # as quick as can be: the weights tell
        return np.eye(10, dtype=np.float32)[part.labels]

    def one(run, **options):
        monkeypatch.setattr(loop, "predict", predict)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "0001"
        folder.mkdir(parents=True)
        result = train(run, folder, **options)
        files = [(folder / name).read_bytes() for name in ("adapter.safetensors", "head.safetensors")]
        return files, result.model_dump(exclude={"times", "peak_memory", "provenance"})

    return one


@pytest.fixture
def counted(monkeypatch):
    """How often backbones were loaded, and their weights hashed, since a cold start."""
    counts = {"loaded": 0, "hashed": 0}

    def counting(what, real):
        def called(*arguments):
            counts[what] += 1
            return real(*arguments)

        return called

    monkeypatch.setattr(backbones, "load", counting("loaded", backbones.load))
    monkeypatch.setattr(Attachment, "backbone_hash", counting("hashed", Attachment.backbone_hash))
    warm.forget()
    return counts


@pytest.mark.parametrize(
    ("runs", "loads"),
    [((BF16, {}, BF16), 1), ((FULL, BF16), 2), ((INT8, INT8), 1)]
    + [pytest.param((NF4_BF16, NF4_BF16, BF16, FULL, {}), 3, marks=pytest.mark.evidence)],
    ids=["precisions", "full", "int8", "many"],
)
def test_a_warm_run_is_the_cold_one_to_the_bit_and_loads_nothing_again(trained, counted, runs, loads):
    specs = [spec(**changes, seed=seed) for seed, changes in enumerate(runs)]
    warmed = [trained(run) for run in specs]
    assert counted["loaded"] == loads
    for run, ours in list(zip(specs, warmed, strict=True))[1:]:
        warm.forget()
        assert trained(run) == ours


def test_the_same_bits_are_hashed_once_a_process(trained, counted):
    prints = [trained(spec(**BF16, seed=seed))[1] for seed in (0, 1)]
    assert counted["hashed"] == 2, "in float32, which pairing compares, and as it is trained on"
    trained(spec())
    assert counted["hashed"] == 2
    assert prints[0]["fingerprints"]["backbone"] == prints[1]["fingerprints"]["backbone"]
    assert prints[0]["frozen_backbone"] == prints[1]["frozen_backbone"]


def test_a_run_leaves_the_kept_backbone_as_it_was_loaded(trained, counted):
    for changes in (BF16, {}):
        trained(spec(**changes))
    (_, kept), pristine = warm._kept["backbone"], backbones.load(spec().backbone, 5)
    assert not kept.training and all(p.requires_grad and p.grad is None for p in kept.parameters())
    assert [name for name, _ in kept.named_modules()] == [name for name, _ in pristine.named_modules()]
    for (name, ours), theirs in zip(kept.state_dict().items(), pristine.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


def test_what_a_working_copy_trains_is_its_own(counted):
    model = backbones.load(spec().backbone, 5)
    norm = torch.nn.LayerNorm(4)
    model.classifier.add_module("norm", norm)  # a head with normalisation, whose scale no run draws anew
    norm.register_buffer("seen", torch.zeros(1))
    copied = warm.working_copy(model)
    head = head_parameters(copied, family_of(copied).head(copied))
    assert "classifier.norm.weight" in head
    with torch.no_grad():
        for parameter in head.values():
            parameter += 1
        copied.classifier.norm.seen += 1
        copied.requires_grad_(False)
    assert norm.weight.eq(1).all() and norm.seen.eq(0).all() and norm.weight.requires_grad
    for (name, ours), theirs in zip(copied.named_parameters(), model.parameters(), strict=True):
        assert (ours.data_ptr() == theirs.data_ptr()) == (name not in head), name


def test_a_process_that_trains_one_run_keeps_no_backbone(trained, counted):
    trained(spec(**BF16), keep=False)
    assert "backbone" not in warm._kept
    trained(spec(**BF16))
    assert "backbone" in warm._kept


def test_after_a_run_that_was_stopped_or_failed_the_next_one_is_as_a_cold_one(tmp_path, trained, counted, monkeypatch):
    run = spec(**BF16, seed=1)
    cold = trained(run)
    control = RunControl()
    control.stop_reason = "preempted"
    with pytest.raises(Stopped):
        trained(spec(**BF16), control=control)
    assert trained(run) == cold

    def fails(*_):
        raise ValueError("midway")

    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "_final_scores", fails)
        with pytest.raises(ValueError, match="midway"):
            trained(spec())
    assert trained(run) == cold


def test_a_run_leaves_nothing_of_its_model_in_memory(trained, counted, monkeypatch):
    models = []

    def seen(model):
        models.append(weakref.ref(copied := real(model)))
        return copied

    real = warm.working_copy
    monkeypatch.setattr(training_run, "working_copy", seen)
    trained(spec(**BF16))
    trained(spec(compute={"device": "cpu", "threads": 1, "activation_checkpointing": True}))
    gc.collect()
    assert len(models) == 2 and [model() for model in models] == [None, None]


def writes_data(weight, _):
    weight.data.add_(1)


def writes_through_numpy(weight, _):
    weight.detach().numpy()[0, 0] += 1


def is_stepped_by_a_fused_optimiser(weight, _):
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], fused=True).step()


def is_stepped_by_an_optimiser_that_loops(weight, _):
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], foreach=False).step()


def changes_sign(weight, _):
    weight.data.neg_()


def is_another_tensor(weight, layer):
    layer.weight = torch.nn.Parameter(weight + 1, requires_grad=False)


def is_no_longer_frozen(weight, _):
    weight.requires_grad_(True)


WAYS = [
    writes_data,
    writes_through_numpy,
    is_stepped_by_a_fused_optimiser,
    is_stepped_by_an_optimiser_that_loops,
    changes_sign,
    is_another_tensor,
    is_no_longer_frozen,
]


@pytest.fixture
def adapter():
    model = backbones.load(spec().backbone, 5)
    return attach(model, AdapterSpec(grouping="att", ranks=2), 0, family_of(model).head(model))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_proof_finds_a_frozen_weight_that_changed_by_whatever_means(adapter, way):
    def checksums():
        return {name: checksum(parameter) for name, parameter in adapter.attachment.frozen_parameters().items()}

    before = frozen.hashed(adapter)
    frozen.refuse_changed(before, checksums())
    layer = next(iter(adapter.attachment.wrapped.values())).base
    way(layer.weight, layer)
    with pytest.raises(RuntimeError, match=r"the frozen backbone has changed in training: [\w.]+\.weight$"):
        frozen.refuse_changed(before, checksums())


def test_a_run_whose_optimiser_was_handed_a_frozen_weight_fails(trained, counted, monkeypatch):
    def make_optimizer(adapter, head, settings):
        weight = next(iter(adapter.attachment.wrapped.values())).base.weight
        weight.grad = torch.ones_like(weight)
        return real(adapter, [*head, weight], settings)

    real = build.make_optimizer
    monkeypatch.setattr(build, "make_optimizer", make_optimizer)
    with pytest.raises(RuntimeError, match=r"the frozen backbone has changed in training: [\w.]+\.weight$"):
        trained(spec())
    assert "backbone" not in warm._kept


def test_version_counters_would_miss_what_the_runs_own_optimiser_writes():
    """Why the proof is of the weights' bits: see `frozen.refuse_changed`."""
    weight = torch.nn.Parameter(torch.ones(4))
    weight.grad, before = torch.ones(4), weight._version
    torch.optim.AdamW([weight], fused=True).step()
    assert weight._version == before and not weight.eq(1).any()


def test_a_changed_backbone_is_hashed_anew(adapter):
    first = frozen.hashed(adapter)
    weight = next(iter(adapter.attachment.frozen_parameters().values()))
    before = weight.detach().clone()
    weight.data.add_(1)
    assert frozen.hashed(adapter).digest != first.digest
    weight.data.copy_(before)
    assert frozen.hashed(adapter) == first


REAL = {
    "minilm": ("models/minilm_l6", {"name": "mrpc", "data": "data/mrpc", "train_examples": 4, "max_length": 16}),
    "deit_tiny": ("models/deit_tiny", {"name": "images", "data": "data/dtd10", "train_examples": 4}),
}


@pytest.mark.evidence
@pytest.mark.parametrize("name", REAL)
def test_a_warm_bf16_run_starts_within_a_second_besides_data_and_training(data_root, trained, monkeypatch, name):
    folder, task = REAL[name]
    run = spec(
        backbone={"source": "transformers", "name": str(data_root / folder)},
        task={**task, "data": str(data_root / task["data"])},
        optimizer={"epochs": 1, "batch_size": 4},
        seed=1,
        **BF16,
    )
    cold = trained(run)
    began = {}

    def fit(self):
        began["fit"] = time.process_time()
        return real(self)

    real = loop.Loop.fit
    monkeypatch.setattr(loop.Loop, "fit", fit)
    started = time.process_time()  # of this process alone: others may keep the machine busy
    assert trained(run) == cold
    assert began["fit"] - started < 1.0


def _with_a_computed_weight(model):
    model.extra = torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))


def _with_a_closure(model):
    layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: output + 0 * layer.weight.sum())


@pytest.mark.parametrize("change", [_with_a_computed_weight, _with_a_closure])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_backbone_without_a_faithful_copy_is_not_copied(change):
    model, _ = FAMILIES["bert"].example()
    assert warm.working_copy(model) is not None
    change(model)
    assert warm.working_copy(model) is None
