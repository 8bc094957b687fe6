"""Bytes a process under each strategy and number of processes, and the cheapest that fits a given GPU.

The adapter is small beside its frozen backbone: ZeRO-1 and ZeRO-2, which shard the optimiser's state and gradients,
save next to nothing here, and ZeRO-3, which shards the weights, saves most (arXiv 1910.02054 counts the same way).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tensloradist.errors import UserError, unknown
from tensloradist.memory.step import FULL, StepBytes
from tensloradist.training.deepspeed_config import BUCKET, FETCHED_ON_GPU, LIVE_ON_GPU

GiB = 2**30
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3")
RESERVE = 0.9  # of a GPU: the rest is for the context, the allocator's fragments and the libraries' workspaces
# A GPU's name for --gpu -> its memory in GiB, as the maker states it.
GPUS = {
    "t4": 16,
    "v100": 32,
    "a10": 24,
    "l4": 24,
    "l40s": 48,
    "rtx4090": 24,
    "a100-40": 40,
    "a100": 80,
    "h100": 80,
    "h200": 141,
    "b200": 180,
}
_BROADCAST = 2 * 250 * 2**20  # bytes: DDP's two buckets in flight when it gives every process the first one's weights


@dataclass(frozen=True)
class Need:
    """What one process needs under a strategy, in bytes.

    Attributes:
        gradients: with DDP's or DeepSpeed's buckets.
        optimizer: AdamW's moments, DeepSpeed's flat copies, and the kept best weights.
        buffers: the model's own, the batch, and what ZeRO-3 gathers at once.
        starting: the peak before the first step: DDP broadcasts all weights, the frozen ones too, in copies.
        loaded: of the host: the whole model in float32 before training. Under ZeRO-3 the first process alone holds it,
            while it sends the others their shards. A worker of `single` runs keeps it for its next run.
    """

    strategy: str
    processes: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    starting: int
    loaded: int

    @property
    def on_cpu(self) -> int:
        """The peak on the CPU, where a model is loaded in float32 before its weights are cast; see `first_on_cpu`."""
        return self.total if self.strategy == "zero3" else self.first_on_cpu

    @property
    def first_on_cpu(self) -> int:
        """The same of the first process, which under ZeRO-3 is the only one that loads the model."""
        return max(self.total, self.loaded)

    @property
    def total(self) -> int:
        """The peak on an accelerator."""
        step = self.parameters + self.gradients + self.optimizer + self.activations + self.buffers
        return max(step, self.starting)

    def fits(self, gpu: int) -> bool:
        """Whether it fits into a GPU of so many bytes, less what is reserved."""
        return self.total <= RESERVE * gpu


def needs(step: StepBytes, processes: Iterable[int], strategies: Iterable[str] = STRATEGIES) -> list[Need]:
    """Every sensible combination: `single` with one process, the others with two or more.

    Args:
        step: of one process's share of the batch (`measure_step`); it is the same for all of these.
    """
    return [
        _need(step, strategy, world)
        for strategy in strategies
        for world in processes
        if (world == 1) == (strategy == "single")
    ]


def _need(step: StepBytes, strategy: str, world: int) -> Need:
    trained = step.trainable * FULL
    zero = int(strategy[-1]) if strategy.startswith("zero") else 0
    shard = math.ceil(trained / world)
    gradients = trained if zero < 2 else shard
    if strategy == "ddp":
        gradients += trained  # the buckets that are reduced
    if zero:
        # The bucket of gradients on their way to be reduced: whole on a GPU, touched as far as it is filled on the CPU.
        gradients += BUCKET * FULL if step.device == "cuda" else min(trained, BUCKET * FULL)
    moments = 2 * (shard if zero else trained)
    masters = shard if zero else 0
    best = trained  # the weights at the best epoch
    parameters, buffers = step.frozen + trained, step.buffers
    if zero == 3:
        parameters = math.ceil(parameters / world)
        buffers += _gathered(step)
    starting = parameters + (min(parameters, _BROADCAST) if strategy == "ddp" else 0)
    optimizer = moments + masters + best
    return Need(strategy, world, parameters, gradients, optimizer, step.activations, buffers, starting, step.loaded)


def _gathered(step: StepBytes) -> int:
    """Bytes of whole parameters that ZeRO-3 is configured to have on a process at once."""
    if step.device == "cpu":  # the layer in use, the one that is fetched ahead, and what may stay gathered
        return 2 * step.largest + min(step.frozen, 2 * BUCKET * FULL)
    # With every layer it fetches more ahead, until so many are there; a bucket of them is copied as it arrives.
    live = min(step.frozen, LIVE_ON_GPU * step.frozen_itemsize + step.largest)
    return live + max(step.largest, min(step.frozen, FETCHED_ON_GPU * step.frozen_itemsize))


def recommend(found: Iterable[Need], gpu: int) -> Need | None:
    """The cheapest that fits: fewest processes, then the strategy that communicates least; None if nothing fits."""
    fitting = [need for need in found if need.fits(gpu)]
    return min(fitting, key=lambda need: (need.processes, STRATEGIES.index(need.strategy)), default=None)


def gpu_bytes(text: str) -> int:
    """Bytes of a GPU given by name (`h100`) or by memory (`80GiB`, `24 GB`). Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|GB|MiB|MB)", text)
    if match:
        return int(float(match[1]) * {"GiB": GiB, "GB": 10**9, "MiB": 2**20, "MB": 10**6}[match[2]])
    name = text.lower()
    if name not in GPUS:
        raise UserError(f"{unknown('GPU', text, GPUS)} Or give its memory, such as 80GiB")
    return GPUS[name] * GiB
