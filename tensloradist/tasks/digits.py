"""digits: scikit-learn's real handwritten digits, embedded in that library, for runs that need no download.

The backbone digits_vit is pretrained on the classes 0-4; the task is to tell 5-9 apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tensloradist.embedded_digits import digits_arrays, embedded_digits
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes
from tensloradist.tasks.base import Labels, LoadedTask, SplitData, Task, accuracy, limited, stratified_parts

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

CLASSES = (5, 6, 7, 8, 9)


class _Digits(SplitData):
    def __init__(self, pixels: npt.NDArray[np.float32], labels: Labels, indices: npt.NDArray[np.int64]) -> None:
        import torch

        self.ids = [f"digit-{index}" for index in indices]
        self.labels = labels[indices]
        self._pixels = torch.from_numpy(pixels[indices])

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        return {"pixel_values": self._pixels[np.asarray(indices)]}


def fingerprint(task: TaskSpec) -> str:
    if task.data is not None or task.revision is not None:
        raise UserError(f"task.data: {task.data!r}; digits is embedded and takes no data and no revision")
    images, targets = embedded_digits()
    return hash_bytes("digits", images.tobytes(), targets.tobytes())


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str) -> LoadedTask:
    if backbone.source != "digits_vit":
        raise UserError(
            f"task.name: digits has images of 8 × 8 pixels, made for backbone source digits_vit, not {backbone.source}"
        )
    if task.augmentation != "none":
        raise UserError(f"task.augmentation: {task.augmentation!r}; a flipped digit is another one, so digits has none")
    if task.max_length is not None:
        raise UserError(f"task.max_length: {task.max_length} is for text; digits takes none")
    pixels, labels = digits_arrays(CLASSES)
    if protocol == "official":
        train, test = stratified_parts(labels, (0.8, 0.2), task.split_seed)
        validation = test
    else:
        train, validation, test = stratified_parts(labels, (0.6, 0.2, 0.2), task.split_seed)
    parts = [_Digits(pixels, labels, part) for part in (limited(train, task), validation, test)]
    fitted, chosen, held_out = parts
    return LoadedTask(
        name="digits",
        kind="image",
        num_labels=len(CLASSES),
        regression=False,
        train=fitted,
        validation=chosen,
        test=held_out,
        primary_metric="accuracy",
        metric_names=("accuracy",),
        metrics=accuracy,
        data_fingerprint=fingerprint(task),
        origin=f"{'80/20' if protocol == 'official' else '60/20/20'} % of the embedded digits",
        classes=tuple(str(digit) for digit in CLASSES),
    )


def _example(folder: Path) -> tuple[TaskSpec, BackboneSpec]:
    from tensloradist.spec import BackboneSpec, TaskSpec

    return TaskSpec(name="digits"), BackboneSpec(source="digits_vit", name="digits_vit")


DIGITS = Task(
    name="digits",
    kind="image",
    load=load,
    fingerprint=fingerprint,
    label=lambda task: "digits",
    num_labels=lambda task: len(CLASSES),
    example=_example,
    fetch=lambda task, backbone, protocol: [],
)
