"""Predictions of a model over exactly one split, each example once, on one process or several."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tensloradist.backbones.masks import known_padding
from tensloradist.training.batches import Batches
from tensloradist.training.order import unweighted

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from tensloradist.backbones import Family
    from tensloradist.tasks.base import SplitData

EVALUATION_BATCH = 64


def evaluation_batch(micro_batch: int | None) -> int:
    """Examples an evaluation looks at together.

    Where training's number is said for memory's sake, four times that: without gradients no layer's inputs are kept.
    """
    return min(EVALUATION_BATCH, 4 * micro_batch if micro_batch else EVALUATION_BATCH)


@torch.no_grad()
def predict(
    accelerator: Accelerator,
    model: nn.Module,
    family: Family,
    split: SplitData,
    between: Callable[[], None] | None = None,
    batch: int = EVALUATION_BATCH,
) -> np.ndarray:
    """Logits of every example, in the split's order: (n, classes) float32, the same on all processes.

    Text is taken in order of length, so that little is padded; the result does not depend on the number of processes
    but for rounding. `between` is called after each batch, equally often on all processes.
    """
    model.eval()
    order = np.arange(len(split)) if split.lengths is None else np.argsort(-split.lengths, kind="stable")
    rank, processes = accelerator.process_index, accelerator.num_processes
    share = math.ceil(len(order) / processes)
    mine = order[rank * share : (rank + 1) * share]
    padded = np.concatenate([mine, np.full(share - len(mine), order[0])])
    parts = [padded[i : i + batch] for i in range(0, share, batch)]
    outputs = []
    with Batches(split, [unweighted(part) for part in parts], accelerator.device) as ready:
        for one in ready:
            with accelerator.autocast(), known_padding(one.padded):
                logits = family.logits(model, one.inputs)
            outputs.append(logits.float())
            if between is not None:
                between()
    gathered = accelerator.gather(torch.cat(outputs)).cpu().numpy()[: len(order)]
    result = np.empty_like(gathered)
    result[order] = gathered
    return result
