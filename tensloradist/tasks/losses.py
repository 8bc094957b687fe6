"""The loss of each kind of task, example by example."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tensloradist.backbones import LANGUAGE_MODEL


def example_losses(outputs: Tensor, labels: Tensor, num_labels: int, regression: bool) -> Tensor:
    """Each example's loss, shape (n,): cross-entropy, squared error, or an answer's negative log-likelihood.

    Args:
        outputs: (n, num_labels) in float32, or (n, 3) as `decoders.answer_scores` gives them.
        labels: (n,) classes, or numbers. A language model's are not used, since its outputs are losses already.
    """
    if num_labels == LANGUAGE_MODEL:
        return outputs[:, 0]
    if regression:
        return F.mse_loss(outputs.squeeze(-1), labels, reduction="none")
    return F.cross_entropy(outputs, labels, reduction="none")
