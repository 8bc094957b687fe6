"""Training augmentation: horizontal flips and colour jitter, keyed by seed, epoch and example.

The augmentation of an example does not depend on the method, the process or the batch. The
jitter is that of the official TensLoRA scripts: torchvision's ColorJitter(0.4, 0.4, 0.4, 0.4), applied to every
second image on average, with its four operations in random order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = 0.4  # brightness, contrast and saturation are multiplied by 1 ± this; hue is rotated by ± this of a circle
PROBABILITY = 0.5  # of a flip, and of jitter
Counts = tuple[tuple[int, ...], ...]


def draws(examples: npt.NDArray[np.int64], key: tuple[int, int], how: str) -> tuple[dict[str, Tensor], Counts]:
    """The augmentation `how` of these examples, 'flip' or 'flip_jitter', drawn on the CPU.

    Returns:
        `flips` (n,) bool and, for jitter, `amounts` (n, 4) float32 of the four operations, and `order` (4, k) int64:
        at each of four places the jittered examples, sorted by the operation at that place; and for each place the
        number of examples of each operation. The counts stay on the CPU, since they are shapes.
    """
    import torch

    drawn = np.stack([np.random.default_rng([*key, int(example)]).random(10) for example in examples])
    tensors = {"flips": torch.from_numpy(drawn[:, 0] < PROBABILITY)}
    if how == "flip":
        return tensors, ()
    jittered = np.flatnonzero(drawn[:, 1] < PROBABILITY)
    operations = np.argsort(drawn[jittered, 6:10], axis=1)  # of each example, at each place
    tensors["amounts"] = torch.from_numpy(STRENGTH * (2 * drawn[:, 2:6] - 1)).to(torch.float32)
    tensors["order"] = torch.from_numpy(jittered[np.argsort(operations, axis=0, kind="stable")].T.copy())
    return tensors, tuple(tuple(np.bincount(place, minlength=4).tolist()) for place in operations.T)


def augmented(pixels: Tensor, drawn: dict[str, Tensor], counts: Counts) -> Tensor:
    """Pixels (n, 3, h, w) in 0..1 after the augmentation from `draws`, on their device; may change them in place."""
    import torch

    pixels = torch.where(drawn["flips"].view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    for place, sizes in enumerate(counts):
        parts = drawn["order"][place].split(sizes)
        for number, (operation, chosen) in enumerate(zip(_OPERATIONS, parts, strict=True)):
            if len(chosen):
                amounts = drawn["amounts"][chosen, number].view(-1, 1, 1, 1)
                pixels[chosen] = operation(pixels[chosen], amounts)
    return pixels


def _grey(pixels: Tensor) -> Tensor:
    return (0.2989 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2]).unsqueeze(1)


def brightness(pixels: Tensor, amount: Tensor) -> Tensor:
    """Multiplied by 1 + amount (n, 1, 1, 1)."""
    return (pixels * (1 + amount)).clamp(0, 1)


def contrast(pixels: Tensor, amount: Tensor) -> Tensor:
    """Scaled away from (or towards) each image's mean grey."""
    mean = _grey(pixels).mean((-2, -1), keepdim=True)
    return (mean + (pixels - mean) * (1 + amount)).clamp(0, 1)


def saturation(pixels: Tensor, amount: Tensor) -> Tensor:
    """Scaled away from (or towards) each pixel's grey."""
    grey = _grey(pixels)
    return (grey + (pixels - grey) * (1 + amount)).clamp(0, 1)


def hue(pixels: Tensor, amount: Tensor) -> Tensor:
    """Every pixel's hue rotated by amount (n, 1, 1, 1) of a circle, at its own value and chroma (the HSV model)."""
    import torch

    value, brightest = pixels.max(1)
    chroma = value - pixels.min(1).values
    red, green, blue = pixels.unbind(1)
    safe = chroma.clamp_min(torch.finfo(pixels.dtype).tiny)
    sectors = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1)
    angle = sectors.gather(1, brightest.unsqueeze(1)).squeeze(1) + 6 * amount.squeeze(1)  # in sixths of a circle
    rotated = []
    for offset in (5, 3, 1):
        place = (angle + offset) % 6
        rotated.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(rotated, 1)


_OPERATIONS = (brightness, contrast, saturation, hue)
