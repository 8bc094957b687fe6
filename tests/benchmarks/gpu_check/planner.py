"""The memory planner's figure of a run against what the run took: on a GPU its allocator's peak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpu_check.part import Check
from gpu_check.report import Row
from gpu_check.runs import as_sweep, plain_run, result_of, written

WITHIN = 0.15
MiB = 2**20
SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16", "optimizer": {"batch_size": 64}},
    "fp32": {"precision": "fp32", "optimizer": {"batch_size": 32}},
    "bf16, checkpointing": {
        "precision": "bf16",
        "optimizer": {"batch_size": 64},
        "compute": {"activation_checkpointing": True},
    },
    "bf16, micro-batch 16": {"precision": "bf16", "optimizer": {"batch_size": 64}, "compute": {"micro_batch": 16}},
}


def rows(check: Check) -> Iterator[Row]:
    for name, setting in SETTINGS.items():
        check.say(f"planning and training: {name}")
        try:
            yield _of(check, name, setting)
        except Exception as error:  # one setting may fail by itself
            yield check.failed(f"ViT-B, {name}", error)


def _of(check: Check, name: str, setting: dict[str, Any]) -> Row:
    from launch.planning.memory import memory_plans
    from launch.planning.sweep_file import load_sweep
    from tensloradist.results.execute import execute
    from tensloradist.training import train

    sizes = setting if check.on_gpu else {**setting, "optimizer": {"batch_size": 16}}
    plain = plain_run(check, model="vit_base", updates=3, **sizes)
    sweep = load_sweep(written(check, name, as_sweep(plain, "planned")))
    (plan,) = memory_plans(sweep, [1], torch.cuda.mem_get_info()[1] if check.on_gpu else None)
    need = next(need for need in plan.needs if need.strategy == "single")
    peak = result_of(execute(sweep.runs[0].spec, check.folder / name, train)).peak_memory
    planned, taken = (need.total, peak.device_bytes) if check.on_gpu else (need.on_cpu, peak.host_bytes)
    label = f"{'ViT-B' if check.on_gpu else 'tiny'}, {name}"
    if taken is None:
        return check.judged(label, False, "the run's result has no peak of memory")
    if not check.on_gpu:
        text = f"planned {planned / MiB:.1f} MiB; the process has {taken / MiB:.0f} MiB, most of it libraries"
        return check.judged_on_gpu(label, True, text, planned=planned, taken=taken)
    error = planned / taken - 1
    text = f"planned {planned / MiB:,.0f} MiB, taken {taken / MiB:,.0f} MiB: {error:+.1%} (within {WITHIN:.0%})"
    return check.judged(label, abs(error) <= WITHIN, text, planned=planned, taken=taken)
