"""Preprocessing that follows the backbone: image size and normalisation, or the tokenizer, as its own files say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tensloradist import backbones
from tensloradist.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from tensloradist.spec import BackboneSpec

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class ImagePreprocessing:
    """From a decoded image to normalised pixels of size × size.

    Attributes:
        size: side of the square that the backbone sees, in pixels.
        resize: 'squash' both sides to `size`, or bring the 'shorter' side to `resize_to` and crop the centre.
        mean, std: of each RGB channel in 0..1; None: no normalisation (the official protocol).
    """

    size: int
    resize: Literal["squash", "shorter"]
    resize_to: int
    interpolation: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def geometry(self) -> dict[str, Any]:
        """What decides the resized pixels: the part of the cache's key."""
        return {key: value for key, value in asdict(self).items() if key not in ("mean", "std")}

    def resized(self, image: Image.Image) -> Image.Image:
        """The image in RGB, resized and centre-cropped to size × size."""
        from PIL import Image as Pillow

        image = image.convert("RGB")
        how = Pillow.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return image if image.size == (self.size, self.size) else image.resize((self.size, self.size), how)
        width, height = image.size
        scale = self.resize_to / min(width, height)
        width, height = max(self.size, round(width * scale)), max(self.size, round(height * scale))
        image = image.resize((width, height), how)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return image.crop((left, top, left + self.size, top + self.size))


def require_kind(backbone: BackboneSpec, kind: str, task: str) -> None:
    """Raises UserError where an image task meets a text backbone or the reverse."""
    found = backbones.kind(backbone)
    if found != kind:
        raise UserError(
            f"task.name: {task} is {'an image' if kind == 'image' else 'a text'} task, but the backbone "
            f"{backbone.name} reads {found}; choose {'an image' if kind == 'image' else 'a text'} backbone"
        )


@lru_cache(maxsize=64)
def image_preprocessing(backbone: BackboneSpec) -> ImagePreprocessing:
    """As the backbone was pretrained: from its preprocessor_config.json, or timm's pretrained configuration.

    Raises:
        UserError: the backbone says nothing of its preprocessing.
    """
    if backbone.source == "timm":
        return _of_timm(backbone)
    if backbone.source == "transformers":
        return _of_transformers(backbone)
    raise UserError(
        f"backbone.source: {backbone.source!r} has no image preprocessing; image tasks need a transformers or "
        "timm backbone"
    )


def _of_transformers(backbone: BackboneSpec) -> ImagePreprocessing:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    from transformers import AutoImageProcessor

    from tensloradist.backbones.transformers_ import quiet, weights_folder

    try:
        with quiet():
            # The folder of the pinned commit, so that preprocessing and weights cannot come from two.
            processor = AutoImageProcessor.from_pretrained(str(weights_folder(backbone)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone.name: {backbone.name} has no readable preprocessor_config.json ({str(error).splitlines()[0]})"
        ) from error
    size = dict(processor.size)
    interpolation = _RESAMPLING[int(getattr(processor, "resample", 3) or 3)]
    normalises = bool(getattr(processor, "do_normalize", True))
    mean = tuple(float(v) for v in processor.image_mean) if normalises else None
    std = tuple(float(v) for v in processor.image_std) if normalises else None
    if "height" in size:
        if size["height"] != size["width"]:
            raise UserError(f"backbone.name: {backbone.name} takes images of {size}; only square ones are supported")
        side = int(size["height"])
        return ImagePreprocessing(side, "squash", side, interpolation, mean, std)
    crop = dict(getattr(processor, "crop_size", None) or {})
    shorter = int(str(size["shortest_edge"]))
    side = int(str(crop.get("height", shorter))) if getattr(processor, "do_center_crop", False) else shorter
    return ImagePreprocessing(side, "shorter", shorter, interpolation, mean, std)


def _of_timm(backbone: BackboneSpec) -> ImagePreprocessing:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    import timm.data

    config = timm.data.resolve_data_config({}, model=backbones.empty(backbone, 2))
    side = int(config["input_size"][-1])
    return ImagePreprocessing(
        side,
        "shorter",
        round(side / config["crop_pct"]),
        str(config["interpolation"]),
        tuple(config["mean"]),
        tuple(config["std"]),
    )


@lru_cache(maxsize=8)
def tokenizer_of(backbone: BackboneSpec) -> Any:
    """The backbone's own fast tokenizer. Raises UserError if it has none."""
    from transformers import AutoTokenizer

    from tensloradist.backbones.transformers_ import quiet, weights_folder

    if backbone.source != "transformers":
        raise UserError(
            f"backbone.source: {backbone.source!r} has no tokenizer; text tasks need a transformers backbone"
        )
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(str(weights_folder(backbone)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone.name: {backbone.name} has no readable tokenizer ({str(error).splitlines()[0]})"
        ) from error
