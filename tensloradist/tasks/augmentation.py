"""Training augmentation: horizontal flips and colour jitter, keyed by seed, epoch and example.

What an example looks like in an epoch depends on nothing else: not on the method, the process or the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

JITTER = 0.2  # brightness, contrast and saturation are multiplied by 1 ± this


def augmented(pixels: Tensor, examples: npt.NDArray[np.int64], key: tuple[int, int], how: str) -> Tensor:
    """Pixels (n, 3, h, w) in 0..1 after the augmentation named `how`: 'flip' or 'flip_jitter'."""
    import torch

    draws = np.stack([np.random.default_rng([*key, int(example)]).random(4) for example in examples])
    flips = torch.from_numpy(draws[:, 0] < 0.5)
    pixels = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if how == "flip":
        return pixels
    factors = torch.from_numpy(1 + JITTER * (2 * draws[:, 1:] - 1)).to(pixels.dtype)
    brightness, contrast, saturation = (factors[:, i].view(-1, 1, 1, 1) for i in range(3))
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=pixels.dtype).view(1, 3, 1, 1)
    pixels = (pixels * brightness).clamp_(0, 1)
    mean = (pixels * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * contrast).clamp_(0, 1)
    grey = (pixels * weights).sum(1, keepdim=True)
    return (grey + (pixels - grey) * saturation).clamp_(0, 1)
