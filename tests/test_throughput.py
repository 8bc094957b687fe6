"""Operations against closed forms, the table of peaks, and what a result says of its speed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tensloradist import tasks, throughput
from tensloradist.peaks import peak_rate
from tensloradist.results.schema import Result, Times
from tensloradist.spec import AdapterSpec, BackboneSpec, RunSpec
from tensloradist.throughput import covered, is_communication, measure, step_flops

DIGITS = BackboneSpec(source="digits_vit", name="digits_vit")
RUN = {
    "backbone": {"source": "digits_vit", "name": "digits_vit"},
    "task": {"name": "digits"},
    "adapter": {"method": "lora", "ranks": 2},
    "optimizer": {"epochs": 1, "batch_size": 64},
    "compute": {"device": "cpu", "threads": 1},
}


def test_the_batch_that_stands_for_all_is_no_remainder(monkeypatch, tmp_path):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path))
    spec = RunSpec.model_validate(RUN)
    task = tasks.load(spec.task, spec.backbone)
    batches = [np.arange(2), np.arange(8), np.arange(8, 16)]
    flops = measure(spec, task, batches, 0.5, torch.device("cpu"), 1, None).flops_per_step
    assert flops == step_flops(DIGITS, spec.adapter, task.num_labels, False, pixels(8))


def pixels(examples):
    return (("pixel_values", (examples, 1, 8, 8), torch.float32),)


def test_frozen_weights_have_no_gradient_and_count_none():
    """digits_vit: 17 tokens, width 48, inner 96, 4 layers. 2 for each weight and token, and 2 for its input."""
    n, tokens, width, inner, layers, rank = 8, 17, 48, 96, 4, 2
    flops = step_flops(DIGITS, AdapterSpec(method="lora", ranks=rank), 5, False, pixels(n))
    linear = layers * (4 * width**2 + 2 * width * inner) * n * tokens * 2
    attention = layers * 2 * n * tokens**2 * width * 2
    adapter = layers * 3 * 2 * width * rank * n * tokens * 2
    patches, head = n * 16 * 4 * width * 2, n * width * 5 * 2
    # The first layer's inputs need no gradient, but for its adapter's, which ends at the frozen projections.
    forward = linear + attention + adapter + patches + head
    backward = linear + 2 * attention + 2 * adapter + 2 * head - 3 * width**2 * n * tokens * 2
    assert flops == pytest.approx(forward + backward, rel=0.02)
    assert step_flops(DIGITS, AdapterSpec(method="lora", ranks=rank), 5, False, pixels(2 * n)) == pytest.approx(
        2 * flops
    )


def test_operations_are_counted_once_for_all_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path))
    adapter = {"grouping": "att", "ranks": {"input": 3, "head_dim": 2, "heads": 2}}
    spec = RunSpec.model_validate({**RUN, "adapter": adapter})
    task = tasks.load(spec.task, spec.backbone)
    measured = [measure(spec, task, [np.arange(8)], 0.5, torch.device("cpu"), 1, None)]
    monkeypatch.setattr(throughput, "step_flops", None)  # counting again would fail
    measured.append(measure(spec, task, [np.arange(8)], 0.5, torch.device("cpu"), 1, None))
    assert measured[0] == measured[1]
    assert measured[0].flops_per_step == step_flops(DIGITS, spec.adapter, task.num_labels, False, pixels(8))


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835, 60),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA H200 NVL", 835, 60),
        ("NVIDIA GH200 480GB", 989, 67),
        ("NVIDIA B200", 2250, 75),
        ("NVIDIA GB200", 2500, 80),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 19.5),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA L40", 181, 90.5),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA A40", 149.7, 37.4),
        ("NVIDIA RTX A6000", 154.8, 38.7),
        ("NVIDIA GeForce RTX 5090", 209.5, 104.8),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 3090", 71, 35.6),
        ("AMD Instinct MI300X", 1307.4, 163.4),
        ("AMD Instinct MI250X", 191.5, 47.9),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None, None),  # a part of the card
        ("GRID A100-10C", None, None),
        ("NVIDIA A10-24Q", None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA GeForce RTX 4090 D", None, None),
        ("NVIDIA GeForce RTX 3090 Ti", None, None),
        ("Tesla V100-PCIE-32GB", None, 14),
        ("NVIDIA T400", None, None),
        ("RTX A1000", None, None),
        ("some other card", None, None),
        (None, None, None),
    ],
)
def test_peaks_are_by_name_and_precision_and_null_where_unknown(name, bf16, fp32):
    for precision, peak in (("bf16", bf16), ("fp32", fp32)):
        found = peak_rate(name, precision)
        assert (found is None) == (peak is None)
        assert found == pytest.approx(peak * 1e12) if peak else True


def test_overlapping_communication_counts_once():
    assert covered([(0, 2), (1, 3), (5, 6), (5.2, 5.4)]) == 4
    assert is_communication("gloo:all_reduce", False) and not is_communication("aten::add", False)
    assert is_communication("ncclDevKernel_AllReduce_Sum_f32_RING_LL(…)", True)
    assert not is_communication("nccl:all_reduce", True), "the launch on the host is not the collective"


def test_a_result_from_before_throughput_is_still_read():
    new = ("steps", "throughput", "data_wait_share")
    old = Times.model_validate({**{name: 1.0 for name in Times.model_fields if name not in new}, "steps": 3})
    assert old.throughput is None and old.data_wait_share is None
    assert Result.model_fields["schema_version"].default == 1


@pytest.mark.distributed
def test_results_say_their_throughput_and_several_processes_their_communication(tmp_path):
    """Of one process and of two: the same operations, and communication where there is some."""
    found = {}
    for processes in (1, 2):
        compute = {**RUN["compute"], "processes": processes, "strategy": "ddp" if processes > 1 else "single"}
        file = tmp_path / f"{processes}.yaml"
        file.write_text(json.dumps({**RUN, "compute": compute}))
        start = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if processes > 1 else []
        command = [sys.executable, *start, "-m", "tensloradist.cli", "run", str(file)]
        results = tmp_path / f"results{processes}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--results", str(results)], check=True, timeout=600, env=environment)
        (path,) = results.glob("runs/*/result.json")
        found[processes] = json.loads(path.read_text())["times"]
    one, two = (found[processes]["throughput"] for processes in (1, 2))
    assert one["flops_per_step"] == two["flops_per_step"] > 0
    assert one["flops_per_second"] == pytest.approx(one["flops_per_step"] / found[1]["step_seconds"])
    assert one["tokens_per_second"] is None and one["model_flops_utilization"] is None
    assert one["communication_share"] is None and 0 < two["communication_share"] <= 1
