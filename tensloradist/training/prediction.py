"""Predictions of a model over exactly one split, each example once, on one process or several."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tensloradist.backbones.masks import known_padding
from tensloradist.compute import ComputeSpec
from tensloradist.results.control import EvaluationOutOfMemory
from tensloradist.results.execute import cause_of
from tensloradist.training.batches import Batches
from tensloradist.training.order import unweighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accelerate import Accelerator

    from tensloradist.backbones import Family
    from tensloradist.tasks.base import SplitData

log = logging.getLogger(__name__)
EVALUATION_BATCH = 64


def evaluation_batch(compute: ComputeSpec) -> int:
    """Examples in one pass of an evaluation, if memory allows it.

    At most four times `compute.micro_batch`: without gradients no layer's inputs are kept.
    """
    if compute.evaluation_batch is not None:
        return compute.evaluation_batch
    return min(EVALUATION_BATCH, 4 * compute.micro_batch if compute.micro_batch else EVALUATION_BATCH)


class EvaluationPasses:
    """Evaluation's passes through the model, of `size` examples; halved for good if device memory runs out.

    Args:
        alone: whether this process may halve by itself. If passes take part in collectives, the run fails with the
            number that was too large, and is tried again with half of it.
        threads: how many may read examples; None: this process's share of the machine.
    """

    def __init__(self, size: int, alone: bool = True, threads: int | None = None) -> None:
        self.size, self._alone, self.threads = size, alone, threads

    @classmethod
    def of(cls, compute: ComputeSpec) -> EvaluationPasses:
        """The passes that a run's `compute` asks for. ZeRO-3 gathers weights within a pass and cannot repeat one."""
        return cls(evaluation_batch(compute), compute.processes == 1 and compute.zero_stage < 3, compute.threads)

    def logits(self, forward: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor]) -> Iterator[Tensor]:
        """`forward` of these examples, in order, part by part; only the last part has fewer than `size` examples.

        Raises:
            EvaluationOutOfMemory: memory does not suffice for one example, or this process may not halve by itself.
        """
        examples, done = len(next(iter(inputs.values()))), 0
        while done < examples:
            part = {name: value[done : done + self.size] for name, value in inputs.items()}
            made = self._tried(forward, part)
            if made is None:  # now that the failed pass's tensors are gone with its exception
                torch.cuda.empty_cache()
                continue
            done += len(made)
            yield made

    def _tried(self, forward: Callable[[dict[str, Tensor]], Tensor], part: dict[str, Tensor]) -> Tensor | None:
        """The part's logits; None if memory ran out, after which the next part is smaller."""
        try:
            return forward(part)
        except Exception as error:
            if cause_of(error) != "out_of_device_memory":
                raise
            tried = len(next(iter(part.values())))
            if tried == 1 or not self._alone:
                raise EvaluationOutOfMemory(tried, error) from error
            self.size = tried // 2
            log.warning("evaluation: %d examples a pass do not fit in device memory; %d from now on", tried, self.size)
            return None


@torch.no_grad()
def predict(
    accelerator: Accelerator,
    model: nn.Module,
    family: Family,
    split: SplitData,
    passes: EvaluationPasses,
    between: Callable[[], None] | None = None,
) -> np.ndarray:
    """Logits of every example, in the split's order: (n, classes) float32, the same on all processes.

    Text is taken in order of length, so that little is padded. Apart from rounding, the result depends neither on the
    number of processes nor on the examples in a pass. `between` is called after each batch, equally often on all
    processes.

    Raises:
        EvaluationOutOfMemory: see `EvaluationPasses.logits`.
    """
    model.eval()
    order = np.arange(len(split)) if split.lengths is None else np.argsort(-split.lengths, kind="stable")
    index = accelerator.process_index
    share = math.ceil(len(order) / accelerator.num_processes)
    mine = order[index * share : (index + 1) * share]
    padded = np.concatenate([mine, np.full(share - len(mine), order[0])])
    parts = [padded[i : i + passes.size] for i in range(0, share, passes.size)]

    def forward(inputs: dict[str, Tensor]) -> Tensor:
        with accelerator.autocast():
            return family.logits(model, inputs).float()

    outputs: list[Tensor] = []
    micros = [unweighted(part) for part in parts]
    with Batches(split, micros, accelerator.device, threads=passes.threads) as ready:
        for one in ready:
            with known_padding(one.padded):
                outputs += passes.logits(forward, one.inputs)
            if between is not None:
                between()
    gathered = accelerator.gather(torch.cat(outputs)).cpu().numpy()[: len(order)]
    result = np.empty_like(gathered)
    result[order] = gathered
    return result
