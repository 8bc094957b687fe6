"""Bytes per process under each strategy and number of processes, and the cheapest combination that fits a given GPU.

The adapter is small compared with its frozen backbone: ZeRO-1 and ZeRO-2, which shard the optimiser's state and
gradients, save almost nothing here; ZeRO-3, which shards the weights, saves most (arXiv 1910.02054 counts likewise).
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
RESERVE = 0.9  # usable share of a GPU; context, fragmentation and library workspaces take the rest
# A GPU's name for --gpu -> its memory in GiB according to the maker.
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
_BROADCAST = 2 * 250 * 2**20  # bytes: DDP's two buckets in flight when it broadcasts the initial weights


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one process needs under a strategy, in bytes.

    Attributes:
        gradients: gradients, with DDP's or DeepSpeed's buckets.
        optimizer: AdamW's moments, DeepSpeed's flat copies, and the copy of the best weights.
        buffers: the model's buffers, the batch, and the parameters that ZeRO-3 gathers at once.
        starting: the peak before the first step, when DDP broadcasts copies of all weights, including frozen ones.
        loaded: host memory for the whole model in float32 before training. Under ZeRO-3 only the first process holds
            it, while it sends the others their shards. A worker of `single` runs keeps it for its next run.
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
        """The same for the first process, which is the only one to load the model under ZeRO-3."""
        return max(self.total, self.loaded)

    @property
    def total(self) -> int:
        """The peak on an accelerator."""
        step = self.parameters + self.gradients + self.optimizer + self.activations + self.buffers
        return max(step, self.starting)

    def fits(self, gpu: int) -> bool:
        """Whether it fits into the usable share of a GPU with this many bytes."""
        return self.total <= RESERVE * gpu


def needs(step: StepBytes, processes: Iterable[int], strategies: Iterable[str] = STRATEGIES) -> list[Need]:
    """Every sensible combination: `single` with one process, the others with two or more.

    Args:
        step: the bytes of one process's share of the batch (`measure_step`), the same for all combinations.
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
        gradients += trained  # the buckets to reduce
    if zero:
        # The bucket of gradients to reduce: whole on a GPU; the CPU only touches the filled part.
        gradients += BUCKET * FULL if step.device == "cuda" else min(trained, BUCKET * FULL)
    moments = 2 * (shard if zero else trained)
    masters = shard if zero else 0
    best = trained  # the weights of the best epoch
    parameters, buffers = step.frozen + trained, step.buffers
    if zero == 3:
        parameters = math.ceil(parameters / world)
        buffers += _gathered(step)
    starting = parameters + (min(parameters, _BROADCAST) if strategy == "ddp" else 0)
    return Need(
        strategy=strategy,
        processes=world,
        parameters=parameters,
        gradients=gradients,
        optimizer=moments + masters + best,
        activations=step.activations,
        buffers=buffers,
        starting=starting,
        loaded=step.loaded,
    )


def _gathered(step: StepBytes) -> int:
    """Bytes of unsharded parameters that ZeRO-3 may hold on a process at once."""
    if step.device == "cpu":  # the current layer, the prefetched one, and what may stay gathered
        return 2 * step.largest + min(step.frozen, 2 * BUCKET * FULL)
    # It prefetches layer by layer up to this many parameters, and copies a bucket of them on arrival.
    live = min(step.frozen, LIVE_ON_GPU * step.frozen_itemsize + step.largest)
    return live + max(step.largest, min(step.frozen, FETCHED_ON_GPU * step.frozen_itemsize))


def recommend(candidates: Iterable[Need], gpu: int) -> Need | None:
    """The cheapest need that fits: fewest processes, then least communication; None if nothing fits."""
    fitting = [need for need in candidates if need.fits(gpu)]
    return min(fitting, key=lambda need: (need.processes, STRATEGIES.index(need.strategy)), default=None)


def gpu_bytes(text: str) -> int:
    """The bytes of a GPU given by name (`h100`) or memory (`80GiB`, `24 GB`). Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|GB|MiB|MB)", text)
    if match:
        return int(float(match[1]) * {"GiB": GiB, "GB": 10**9, "MiB": 2**20, "MB": 10**6}[match[2]])
    name = text.lower()
    if name not in GPUS:
        raise UserError(f"{unknown('GPU', text, GPUS)} Or give its memory, such as 80GiB")
    return GPUS[name] * GiB
