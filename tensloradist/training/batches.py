"""Batches on their way to the device: read ahead by threads, copied there while the step before them is computed.

On a CUDA device the host never waits for a copy. Threads read and put the batch into pinned memory, from which copies
are asynchronous; copies, and what is computed of them (`HostBatch.finish`), are launched on a stream of their own, and
the stream that trains waits for that one on the device. On the CPU the threads finish the batch themselves.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tensloradist.prefetching import prefetch, threads_here
from tensloradist.tasks.base import HostBatch, SplitData
from tensloradist.training.clocks import clock_for

if TYPE_CHECKING:
    from tensloradist.training.order import MicroBatch


@dataclass(frozen=True)
class Batch:
    """A micro-batch on the device.

    Attributes:
        inputs: of the model.
        labels, weights: (n,) of the examples.
        padded: whether the attention mask leaves tokens out, known on the host; None: not looked at, or there is no
            mask, or another one beside it.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    padded: bool | None = None


@dataclass(frozen=True)
class _Read:
    """A micro-batch on the host."""

    examples: HostBatch
    labels: Tensor
    weights: Tensor
    padded: bool | None = None


class Batches:
    """An iterator over micro-batches, in order, each ready on the device; to be closed by leaving its context.

    Args:
        augment: (seed, epoch) in training, else None.
        threads: that may be busy here, as the spec says it; None: this process's share of the machine.
    """

    def __init__(
        self,
        split: SplitData,
        micros: Sequence[MicroBatch],
        device: torch.device,
        augment: tuple[int, int] | None = None,
        threads: int | None = None,
    ) -> None:
        self._split, self._device, self._augment = split, device, augment
        self._clock = clock_for(device)
        if device.type == "cuda":
            readers = max(1, threads_here(threads) - 1)  # one of the CPUs launches the step
            self._ready = self._on_cuda(micros, readers if split.several_at_once else 1)
        else:
            self._ready = self._on_cpu(micros)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ready.close()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        self._clock.start()
        batch = next(self._ready)
        self._clock.stop()
        return batch

    def waited(self) -> float:
        """Seconds, since the last call, in which the device had nothing to compute because a batch was not ready."""
        return sum(self._clock.taken())

    def _read(self, micro: MicroBatch) -> _Read:
        examples = self._split.read(micro.indices, self._augment)
        labels = torch.from_numpy(self._split.labels[micro.indices])
        return _Read(examples, labels, torch.from_numpy(micro.weights))

    def _on_cpu(self, micros: Sequence[MicroBatch]) -> Generator[Batch, None, None]:
        def make(micro: MicroBatch) -> Batch:
            read = self._read(micro)
            return Batch(read.examples.inputs(), read.labels, read.weights)

        with closing(prefetch(micros, make)) as batches:
            yield from batches

    def _pinned(self, micro: MicroBatch) -> _Read:
        read = self._read(micro)
        mask = read.examples.tensors.get("attention_mask")
        others = any("mask" in name for name in read.examples.tensors if name != "attention_mask")
        with torch.cuda.device(self._device):  # a thread starts with the first one
            tensors = {name: value.pin_memory() for name, value in read.examples.tensors.items()}
            return _Read(
                replace(read.examples, tensors=tensors),
                read.labels.pin_memory(),
                read.weights.pin_memory(),
                None if mask is None or others else not bool(mask.all()),
            )

    def _on_cuda(self, micros: Sequence[MicroBatch], readers: int) -> Generator[Batch, None, None]:
        """One batch is copied ahead of the one in use."""
        copies, ahead = torch.cuda.Stream(self._device), None
        with closing(prefetch(micros, self._pinned, readers)) as reads:
            for read in reads:
                # Memory of an earlier batch may be given to this one: not before what was launched on it is done.
                copies.wait_stream(torch.cuda.current_stream(self._device))
                with torch.cuda.stream(copies):
                    batch = self._copied(read)
                if ahead is not None:
                    yield ahead
                torch.cuda.current_stream(self._device).wait_stream(copies)
                ahead = batch
            if ahead is not None:
                yield ahead

    def _copied(self, read: _Read) -> Batch:
        def copy(value: Tensor) -> Tensor:
            return value.to(self._device, non_blocking=True)

        tensors = {name: copy(value) for name, value in read.examples.tensors.items()}
        return Batch(read.examples.inputs(tensors), copy(read.labels), copy(read.weights), read.padded)
