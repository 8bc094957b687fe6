"""Training augmentation: horizontal flips and colour jitter, keyed by seed, epoch and example.

What an example looks like in an epoch depends on nothing else: not on the method, the process or the batch. The
jitter is that of the official TensLoRA scripts: torchvision's ColorJitter(0.4, 0.4, 0.4, 0.4), applied to every
second image on average, with its four operations in random order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = 0.4  # brightness, contrast and saturation are multiplied by 1 ± this; hue turns by ± this part of a circle
PROBABILITY = 0.5  # of a flip, and of jitter


def augmented(pixels: Tensor, examples: npt.NDArray[np.int64], key: tuple[int, int], how: str) -> Tensor:
    """Pixels (n, 3, h, w) in 0..1 after the augmentation named `how`: 'flip' or 'flip_jitter'."""
    import torch

    draws = np.stack([np.random.default_rng([*key, int(example)]).random(10) for example in examples])
    flips = torch.from_numpy(draws[:, 0] < PROBABILITY)
    pixels = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if how == "flip":
        return pixels
    jittered = draws[:, 1] < PROBABILITY
    amounts = torch.from_numpy(STRENGTH * (2 * draws[:, 2:6] - 1)).to(pixels.dtype)
    order = np.argsort(draws[:, 6:10], axis=1)
    for place in range(4):
        for number, operation in enumerate((brightness, contrast, saturation, hue)):
            chosen = torch.from_numpy(np.flatnonzero(jittered & (order[:, place] == number)))
            if len(chosen):
                pixels[chosen] = operation(pixels[chosen], amounts[chosen, number].view(-1, 1, 1, 1))
    return pixels


def _grey(pixels: Tensor) -> Tensor:
    return (0.2989 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2]).unsqueeze(1)


def brightness(pixels: Tensor, amount: Tensor) -> Tensor:
    """Multiplied by 1 + amount (n, 1, 1, 1)."""
    return (pixels * (1 + amount)).clamp(0, 1)


def contrast(pixels: Tensor, amount: Tensor) -> Tensor:
    """Away from (or towards) each image's mean grey."""
    mean = _grey(pixels).mean((-2, -1), keepdim=True)
    return (mean + (pixels - mean) * (1 + amount)).clamp(0, 1)


def saturation(pixels: Tensor, amount: Tensor) -> Tensor:
    """Away from (or towards) each pixel's grey."""
    grey = _grey(pixels)
    return (grey + (pixels - grey) * (1 + amount)).clamp(0, 1)


def hue(pixels: Tensor, amount: Tensor) -> Tensor:
    """Every pixel's hue turned by amount (n, 1, 1, 1) of a circle, at its own value and chroma (the HSV model)."""
    import torch

    value, brightest = pixels.max(1)
    chroma = value - pixels.min(1).values
    red, green, blue = pixels.unbind(1)
    safe = chroma.clamp_min(torch.finfo(pixels.dtype).tiny)
    sectors = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1)
    angle = sectors.gather(1, brightest.unsqueeze(1)).squeeze(1) + 6 * amount.squeeze(1)  # in sixths of a circle
    turned = []
    for offset in (5, 3, 1):
        place = (angle + offset) % 6
        turned.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(turned, 1)
