"""The order of training examples: a function of the seed and the epoch alone, so that it is the same for every method.

Also how one batch is divided among processes and micro-batches. No torch and no global random state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_MEGABATCH = 50  # batches that are sorted by length together: enough to pad little, few enough to stay random


def epoch_batches(
    examples: int, batch_size: int, seed: int, epoch: int, lengths: npt.NDArray[np.int64] | None = None
) -> list[Indices]:
    """The batches of one epoch (0-based), each example once; the last may be smaller.

    With `lengths` (tokens of each example), batches hold examples of similar length: shuffled examples are cut into
    groups of 50 batches, sorted by length within a group, and the batches are shuffled again.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(examples)
    if lengths is None:
        return _cut(order, batch_size)
    groups = _cut(order, batch_size * _MEGABATCH)
    batches = [b for group in groups for b in _cut(group[np.argsort(-lengths[group], kind="stable")], batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(order: Indices, size: int) -> list[Indices]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def order_fingerprint(ids: Sequence[str], batches: Sequence[Indices]) -> str:
    """A hash of the examples' ids in the order of the first epoch."""
    digest = hashlib.sha256()
    for batch in batches:
        for index in batch:
            digest.update(ids[index].encode() + b"\0")
        digest.update(b"\n")
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class MicroBatch:
    """What one process computes in one pass. Padding has weight 0, so that no example counts twice."""

    indices: Indices
    weights: npt.NDArray[np.float32]


def unweighted(indices: Indices) -> MicroBatch:
    """A micro-batch in which each example counts once."""
    return MicroBatch(indices, np.ones(len(indices), dtype=np.float32))


def share(batch: Indices, process_index: int, processes: int, micro_batch: int | None) -> list[MicroBatch]:
    """This process's part of a batch, in micro-batches; all processes get the same number, of the same sizes."""
    per_process = math.ceil(len(batch) / processes)
    mine = batch[process_index * per_process : (process_index + 1) * per_process]
    padding = per_process - len(mine)
    indices = np.concatenate([mine, np.full(padding, batch[0])]) if padding else mine
    weights = np.ones(per_process, dtype=np.float32)
    weights[per_process - padding :] = 0
    size = micro_batch or per_process
    return [MicroBatch(indices[i : i + size], weights[i : i + size]) for i in range(0, per_process, size)]
