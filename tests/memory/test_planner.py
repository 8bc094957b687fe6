"""The planner's bytes: those of torch's own tensors, what each strategy shards, and measured peaks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from tensloradist import backbones, tasks
from tensloradist.compute import ComputeSpec
from tensloradist.errors import UserError
from tensloradist.identity import resolve
from tensloradist.memory import StepBytes, gpu_bytes, measure_step, needs, recommend
from tensloradist.memory.step import LiveBytes, _longest
from tensloradist.spec import RunSpec
from tensloradist.tasks.examples import image_folder, language_backbone, language_folder
from tensloradist.training.deepspeed_config import deepspeed_config

MiB = 2**20
STEP = StepBytes(
    frozen=1000 * MiB, trainable=MiB, largest=50 * MiB, buffers=MiB, activations=100 * MiB, loaded=1004 * MiB
)

ZERO3 = {
    "backbone": {"source": "digits_vit", "name": "digits_vit"},
    "task": {"name": "digits"},
    "adapter": {"grouping": "att", "ranks": 2},
    "optimizer": {"epochs": 1, "batch_size": 32},
    "compute": {"strategy": "zero3", "processes": 4},
}


def test_live_bytes_counts_storages_once_and_until_they_are_gone():
    given = torch.empty(1000)
    with LiveBytes([given]) as counted:
        first = given + 1
        views = [first[:500], first.view(10, 100)]
        second = first * 2
        assert counted.live == 8000
        del first, views
        assert counted.live == 4000
        given.add_(second)
    assert (counted.live, counted.peak) == (4000, 8000)


def test_what_each_strategy_shards():
    found = {(need.strategy, need.processes): need for need in needs(STEP, (1, 2, 4))}
    assert {key for key in found if 1 in key} == {("single", 1)}
    single, ddp = found["single", 1], found["ddp", 4]
    assert ddp.total == found["ddp", 2].total > single.total
    assert found["zero1", 4].optimizer < found["zero1", 2].optimizer
    assert found["zero2", 4].gradients < found["zero1", 4].gradients
    assert found["zero3", 4].parameters == found["zero3", 2].parameters / 2 == ddp.parameters / 4
    assert found["zero3", 4].total < found["zero2", 4].total < single.total + 30 * MiB


def test_on_a_gpu_deepspeed_makes_its_buckets_whole_and_zero3_fetches_ahead_as_far_as_it_may():
    large = replace(STEP, frozen=14_000 * MiB, device="cuda", frozen_itemsize=2)
    found = {need.strategy: need for need in needs(large, [4])}
    cpu = {need.strategy: need for need in needs(replace(large, device="cpu"), [4])}
    for strategy in ("zero1", "zero2", "zero3"):
        assert found[strategy].gradients - cpu[strategy].gradients == 20_000_000 - 4 * MiB
    limits = deepspeed_config(RunSpec.model_validate(ZERO3), on_gpu=True)["zero_optimization"]
    elements = limits["stage3_max_live_parameters"] + limits["stage3_prefetch_bucket_size"]
    assert found["zero3"].buffers == large.buffers + 2 * elements + large.largest
    small = replace(large, frozen=200 * MiB)  # gathered whole, and copied as it arrives
    (need,) = needs(small, [4], ["zero3"])
    assert small.buffers + 200 * MiB < need.buffers <= small.buffers + 300 * MiB
    assert found["ddp"] == cpu["ddp"]


def test_under_zero3_the_first_process_alone_loads_the_model():
    found = {need.strategy: need for need in needs(STEP, [4])}
    assert found["zero3"].on_cpu == found["zero3"].total < found["zero3"].first_on_cpu == STEP.loaded
    assert found["ddp"].on_cpu == found["ddp"].first_on_cpu >= STEP.loaded


@pytest.mark.parametrize(("gpu", "expected"), [("2GiB", ("single", 1)), ("1150MiB", ("zero3", 2)), ("300MiB", None)])
def test_the_recommendation_is_the_cheapest_that_fits(gpu, expected):
    found = recommend(needs(STEP, (1, 2, 4)), gpu_bytes(gpu))
    assert (found and (found.strategy, found.processes)) == expected


def test_a_gpu_has_a_name_or_a_size():
    assert gpu_bytes("H100") == 80 * 2**30 and gpu_bytes("24 GB") == 24 * 10**9
    with pytest.raises(UserError, match=r"Did you mean 'h100'.*Or give its memory"):
        gpu_bytes("h10")


def language(folder, precision="fp32", batch=8, compute=None, quantization=None, examples=8, **sizes):
    backbone = language_backbone(folder, **sizes).model_copy(update={"quantization": quantization})
    task = language_folder(folder, train=max(24, examples + 8))
    return resolve(
        RunSpec.model_validate(
            {
                "backbone": backbone.model_dump(),
                "task": {**task.model_dump(), "train_examples": examples},
                "adapter": {"grouping": "qkv_depth"},
                "optimizer": {"epochs": 1, "batch_size": batch},
                "precision": precision,
                "compute": {"device": "cpu", "threads": 1, **(compute or {})},
            }
        )
    )


def test_a_step_is_measured_without_data(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    full = measure_step(language(tmp_path, hidden_size=64, num_hidden_layers=3), 8)
    (tmp_path / "other").mkdir()
    spec = language(tmp_path / "other", "bf16", hidden_size=64, num_hidden_layers=3)
    half, on_gpu = measure_step(spec, 8), measure_step(spec, 8, device="cuda")
    assert full.frozen + full.trainable * 4 == full.loaded + full.trainable * 4 == 2 * half.frozen + half.trainable * 4
    assert half.activations < on_gpu.activations < full.activations  # on a GPU normalisation is in float32
    assert replace(on_gpu, activations=half.activations, buffers=half.buffers, device="cpu") == half
    inputs, labels = _longest(tasks.load(spec.task, spec.backbone, spec.protocol), 8)
    batch = sum(tensor.nbytes for tensor in (*inputs.values(), labels))
    assert on_gpu.buffers - half.buffers == 2 * batch  # three of them are there: see `training.batches`


def test_a_quantised_layer_is_held_in_its_bits_and_answers_in_the_type_of_its_input():
    """After CUDA's normalisation that is float32, where another linear layer's output is bfloat16."""
    found = {}
    for quantization in (None, "int8", "nf4"):
        backbone = {**ZERO3["backbone"], "quantization": quantization}
        spec = {**ZERO3, "backbone": backbone, "precision": "bf16", "compute": {"device": "cpu"}}
        found[quantization] = measure_step(resolve(RunSpec.model_validate(spec)), 32, device="cuda")
    assert found["int8"].activations == found["nf4"].activations > found[None].activations
    model = backbones.empty(RunSpec.model_validate(ZERO3).backbone, 10)
    head = backbones.family_of(model).head(model)
    layers = [m for path, m in model.named_modules() if isinstance(m, torch.nn.Linear) and path not in head]
    elements, outputs = sum(m.weight.numel() for m in layers), sum(m.out_features for m in layers)
    assert found[None].frozen - found["int8"].frozen == elements - 4 * outputs  # a scale for each output
    assert found[None].frozen - found["nf4"].frozen == elements * 3 // 2 - elements // 16  # one for each 64


# Name -> the run. Small on purpose: a plan for 70 B parameters is the same sum.
WIDE = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 2752}
SETTINGS = {
    "llama 45 M, fp32, batch 8": dict(WIDE, num_hidden_layers=4),
    "llama 45 M, fp32, batch 32": dict(WIDE, num_hidden_layers=4, batch=32, examples=32),
    "llama 90 M, fp32, batch 8": dict(WIDE, num_hidden_layers=8),
    "llama 90 M, fp32, batch 32 as 8": dict(
        WIDE, num_hidden_layers=8, batch=32, examples=32, compute={"micro_batch": 8}
    ),
    "llama 90 M, bf16, batch 8": dict(WIDE, num_hidden_layers=8, precision="bf16"),
    "llama 90 M, int8, batch 8": dict(WIDE, num_hidden_layers=8, quantization="int8"),
    "ViT-S, fp32, batch 16": {"timm": "vit_small_patch16_224", "batch": 16},
    "ViT-B, fp32, batch 4": {"timm": "vit_base_patch16_224", "batch": 4},
    **{
        f"llama 90 M, fp32, batch 8, {strategy}, 2 processes": dict(
            WIDE, num_hidden_layers=8, compute={"strategy": strategy, "processes": 2}
        )
        for strategy in ("ddp", "zero1", "zero2", "zero3")
    },
}


def images(folder, timm, batch):
    task = image_folder(folder, classes=2, each=20)
    return resolve(
        RunSpec.model_validate(
            {
                "backbone": {"source": "timm", "name": timm, "random_init": True},
                "task": {**task.model_dump(), "train_examples": batch},
                "adapter": {"grouping": "qkv_depth"},
                "optimizer": {"epochs": 1, "batch_size": batch},
                "compute": {"device": "cpu", "threads": 1},
            }
        )
    )


def measured(spec, folder):
    """Each process's peak of resident memory beyond its imports, in bytes, by rank."""
    (folder / "spec.json").write_text(spec.model_dump_json())
    script, world = str(Path(__file__).with_name("peak.py")), spec.compute.processes
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(world)] if world > 1 else []
    command = [sys.executable, *start, script, str(folder / "spec.json"), str(folder / "run")]
    # Small blocks go back to the system when they are freed, so that the peak is of what is in use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    subprocess.run(command, check=True, env=environment, timeout=900)
    return [int((folder / "run" / f"peak.{rank}").read_text()) for rank in range(world)]


@pytest.mark.evidence
def test_predictions_are_within_a_quarter_of_measured_peaks(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    known = get_args(ComputeSpec.model_fields["strategy"].annotation)
    errors = {}
    for name, setting in SETTINGS.items():
        setting = dict(setting)
        if setting.get("compute", {}).get("strategy", "single") not in known:
            continue
        folder = tmp_path / name
        folder.mkdir()
        spec = images(folder, **setting) if "timm" in setting else language(folder, **setting)
        compute = spec.compute
        share = compute.micro_batch or spec.optimizer.batch_size // compute.processes
        (need,) = needs(measure_step(spec, share), [compute.processes], [compute.strategy])
        peaks = measured(spec, folder)
        for who, predicted, peak in (
            ("", need.first_on_cpu, peaks[0]),
            ("others", need.on_cpu, max(peaks[1:], default=0)),
        ):
            if peak:
                errors[name, who] = predicted / peak - 1
                numbers = f"predicted {predicted / MiB:6.0f} MiB, measured {peak / MiB:6.0f} MiB"
                print(f"{name:48} {who:6} {numbers}, {errors[name, who]:+.1%}", flush=True)
    assert len(errors) >= 8
    assert max(abs(error) for error in errors.values()) <= 0.25
