"""Batches on their way to the device: read ahead by threads, and copied while the previous step is computed.

On a CUDA device the host never waits for a copy. Threads read a batch into pinned memory, from which copies are
asynchronous. The copies, and what is computed from them (`HostBatch.finish`), are launched on a stream of their own,
for which the training stream waits on the device. On the CPU the threads finish the batch themselves.
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
        padded: whether the attention mask masks tokens, known on the host; None if it was not examined, or if there is
            no mask, or a second one.
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
    """An iterator over micro-batches, in order, each ready on the device; leaving its context closes it.

    Args:
        augment: (seed, epoch) in training, else None.
        threads: how many may be busy here, as in the spec; None: this process's share of the machine.
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
        """Seconds since the last call in which the device was idle because a batch was not ready."""
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
        with torch.cuda.device(self._device):  # a thread starts with the first device
            tensors = {name: value.pin_memory() for name, value in read.examples.tensors.items()}
            return _Read(
                replace(read.examples, tensors=tensors),
                read.labels.pin_memory(),
                read.weights.pin_memory(),
                None if mask is None or others else not bool(mask.all()),
            )

    def _on_cuda(self, micros: Sequence[MicroBatch], readers: int) -> Generator[Batch, None, None]:
        """Batches on the device; each is copied while the one before it is in use."""
        copies, ahead = torch.cuda.Stream(self._device), None
        with closing(prefetch(micros, self._pinned, readers)) as reads:
            for read in reads:
                # This batch may get an earlier one's memory, but not before the work launched on that is done.
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
