"""The image data sets on the Hub that a task may name, as a table: where they are, and the official scripts' settings.

`images` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tensloradist.tasks.hub import HubData


@dataclass(frozen=True)
class Official:
    """The official script's settings for one data set.

    Attributes:
        augmentation: the default of `task.augmentation` under protocol `official`.
        resize: both sides, in pixels, before the centre of 224 is cropped (bilinear); None: as for the backbone.
        normalisation: 'none', with ImageNet's mean and deviation, or as for the 'backbone'.
        train_examples: draw this many of the training part; None: all.
        pooled: whether all examples are split anew, 80/20, instead of by the data set's own split.
    """

    augmentation: Literal["none", "flip_jitter"] = "none"
    resize: int | None = 224
    normalisation: Literal["none", "imagenet", "backbone"] = "none"
    train_examples: int | None = None
    pooled: bool = False

    @property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """What of it is a default of the specification's fields, by section."""
        return {"task": {"augmentation": self.augmentation}} if self.augmentation != "none" else {}


@dataclass(frozen=True)
class HubImages:
    """A data set on the Hub: its name, columns, splits, number of classes, and the official settings."""

    name: str
    label: str
    classes: int
    image: str = "image"
    train: str = "train"
    validation: str | None = None
    test: str = "test"
    revision: str | None = None
    official: Official = Official()

    @property
    def hub(self) -> HubData:
        splits = tuple(split for split in (self.train, self.validation, self.test) if split)
        return HubData(self.name, splits, revision=self.revision)


_OWN_PREPROCESSING = Official(resize=None, normalisation="backbone")

HUB_IMAGES = {
    # Its train split is DTD's train and validation parts together (3,760); the scripts draw only from the former.
    "dtd": HubImages("tanganke/dtd", "label", 47, official=Official(train_examples=1000)),
    # All 27,000 images: others leave some out, and the official split is over all of them.
    "eurosat": HubImages(
        "timm/eurosat-rgb",
        "label",
        10,
        validation="validation",
        official=Official(augmentation="flip_jitter", resize=300, pooled=True),
    ),
    "cifar10": HubImages("uoft-cs/cifar10", "label", 10, image="img", official=_OWN_PREPROCESSING),
    "cifar100": HubImages("uoft-cs/cifar100", "fine_label", 100, image="img", official=_OWN_PREPROCESSING),
    "cub": HubImages(
        "bentrevett/caltech-ucsd-birds-200-2011",
        "label",
        200,
        official=Official(augmentation="flip_jitter", resize=300, normalisation="imagenet"),
    ),
    # The commit with parquet files: the main branch may still hold a loading script, which `datasets` does not run.
    "fgvc_aircraft": HubImages(
        "HuggingFaceM4/FGVC-Aircraft",
        "variant",
        100,
        validation="validation",
        revision="e18a7c97147c90dc7f4a60d74a7f4258e9264e97",
        official=Official(augmentation="flip_jitter", resize=300),
    ),
}
