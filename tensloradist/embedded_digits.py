"""scikit-learn's handwritten digits, which are embedded in that library: 1,797 images of 8 × 8 pixels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tensloradist.caching import cached_folder


@lru_cache(maxsize=1)
def embedded_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, 8, 8) of 0..16 and their digits; cached among processes, since importing the library takes seconds."""

    def make(folder: Path) -> None:
        from sklearn.datasets import load_digits

        data = load_digits()
        np.savez(folder / "digits.npz", images=data.images.astype(np.uint8), targets=data.target.astype(np.int64))

    with np.load(cached_folder("digits", f"scikit-learn-{version('scikit-learn')}", make) / "digits.npz") as found:
        return found["images"], found["targets"]


def digits_arrays(classes: Iterable[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images (n, 1, 8, 8) in -1..1 and labels 0..k-1 of these classes, in the library's order."""
    images, targets = embedded_digits()
    wanted = list(classes)
    chosen = np.isin(targets, wanted)
    pixels = (images[chosen].astype(np.float32) / 8 - 1)[:, None].astype(np.float32, copy=False)
    return pixels, np.searchsorted(wanted, targets[chosen]).astype(np.int64, copy=False)
