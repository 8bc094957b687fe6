"""Throughput of training: tokens and floating-point operations per second, utilisation, and the share of communication.

torch's FlopCounterMode counts the operations of one training step on tensors without data. Frozen weights get no
gradient, so none is counted: a step of an adapter costs about two thirds of a step of full fine-tuning.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tensloradist import backbones
from tensloradist.caching import cached_json
from tensloradist.fingerprint import hash_bytes
from tensloradist.peaks import peak_rate
from tensloradist.results.schema import Throughput
from tensloradist.sources import sources_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensloradist.spec import AdapterSpec, BackboneSpec, RunSpec
    from tensloradist.tasks.base import LoadedTask

log = logging.getLogger(__name__)
Shapes = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
_PROFILED = 2  # the update (0-based, per process) to profile, after the set-up in the first ones


def measure(
    spec: RunSpec,
    task: LoadedTask,
    batches: list[np.ndarray],
    step_seconds: float | None,
    device: torch.device,
    processes: int,
    communication_share: float | None,
) -> Throughput:
    """The throughput section of a result.

    Args:
        batches: an epoch's, over all processes; the batch of median length represents them.
        step_seconds: the median duration of an update.
        communication_share: measured by `Communication`.
    """
    batch = _median(task, batches)
    inputs = task.train.batch(batch, None)
    tokens = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else None
    shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(inputs.items()))
    flops = _flops(spec.backbone, spec.adapter, task.num_labels, task.regression, shapes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    tf32 = torch.get_float32_matmul_precision() != "highest"
    peak = None if spec.precision == "fp32" and tf32 else peak_rate(name, spec.precision)
    rate = flops / step_seconds if flops is not None and step_seconds else None
    return Throughput(
        tokens_per_second=tokens / step_seconds if tokens is not None and step_seconds else None,
        flops_per_step=flops,
        flops_per_second=rate,
        peak_flops_per_second=peak * processes if peak is not None else None,
        model_flops_utilization=rate / (peak * processes) if rate is not None and peak is not None else None,
        communication_share=communication_share,
    )


def _median(task: LoadedTask, batches: list[np.ndarray]) -> np.ndarray:
    most = max(map(len, batches))  # the epoch's remainder may come first
    full = [batch for batch in batches if len(batch) == most]
    if task.train.lengths is None:
        return full[0]
    lengths = task.train.lengths
    return sorted(full, key=lambda batch: int(lengths[batch].max()))[len(full) // 2]


def _flops(
    backbone: BackboneSpec, adapter: AdapterSpec, num_labels: int, regression: bool, shapes: Shapes
) -> int | None:
    """Operations of one update; None, with a warning, for a model that cannot run on tensors without data.

    Counting takes most of a second, plus five seconds of imports in a process's first run, which is longer than a very
    short run. So processes share a cache of the number, valid for the same code and torch.
    """
    what = (backbone.model_dump_json(), adapter.model_dump_json(), str((num_labels, regression, shapes)))

    def count() -> int:
        return step_flops(backbone, adapter, num_labels, regression, shapes)

    try:
        return int(cached_json("flops", hash_bytes(*what, torch.__version__, sources_hash()), count))
    except (RuntimeError, NotImplementedError) as error:
        log.warning("cannot count the operations of a step: %s", str(error).splitlines()[0])
        return None


def step_flops(backbone: BackboneSpec, adapter: AdapterSpec, num_labels: int, regression: bool, shapes: Shapes) -> int:
    """Floating-point operations of one forward and backward pass; a multiplication plus an addition counts as two."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from tensloradist.adapter import attach
    from tensloradist.dataless import fill, forward_and_backward

    # torch can count the fused attention of accelerators, but not the CPU's.
    aten = torch.ops.aten
    cpu_attention: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    model = backbones.empty(backbone, num_labels).train()
    attach(model, adapter)
    with FakeTensorMode():
        fill(model, torch.float32)
        inputs = {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in shapes}
        examples = shapes[0][1][0]
        labels = torch.empty(examples, dtype=torch.float32 if regression else torch.int64)
        with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
            forward_and_backward(model, num_labels, regression, inputs, labels, "fp32")
    return int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of the scores and their product with the values, for shapes (examples, heads, tokens, head_dim)."""
    examples, heads, tokens, head_dim = query
    return int(2 * examples * heads * tokens * key[-2] * (head_dim + value[-1]))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products for each forward one. Recomputation inside a fused kernel does not count."""
    return 2 * _attention(query, key, value)


class Communication:
    """The share of one update's time in which this process communicates, by torch's profiler; None for one process.

    Communication that overlaps with computation counts, too, so the share is not the cost of communication.
    """

    def __init__(self, processes: int, device: torch.device) -> None:
        self.share: float | None = None
        self._device, self._updates = device, 0
        self._measures = processes > 1
        self._profile: Any = None
        self._began = 0.0

    def begin(self) -> None:
        """Call this before each pass of an update."""
        if not self._measures or self._profile is not None or self._updates != _PROFILED:
            return
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's messages on stderr
        self._profile = torch.profiler.profile(activities=kinds)
        self._profile.start()
        self._began = time.perf_counter()

    def end(self) -> None:
        """Call this after each update."""
        self._updates += 1
        if self._profile is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._began
        self._profile.stop()
        on_device = self._device.type == "cuda"
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events()
            if is_communication(event.name, on_device)
        ]
        self.share = min(1.0, covered(spans) * 1e-6 / seconds)
        self._profile, self._measures = None, False


def is_communication(name: str, on_device: bool) -> bool:
    """Whether a profiler event is a collective: NCCL's kernel on the device, or gloo's work on the CPU."""
    return name.startswith("nccl") and "Kernel" in name if on_device else name.startswith("gloo:")


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return float(total)
