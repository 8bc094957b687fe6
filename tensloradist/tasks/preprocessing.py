"""Preprocessing that follows the backbone: image size and normalisation, or the tokenizer, as its own files say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tensloradist import backbones
from tensloradist.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from tensloradist.spec import BackboneSpec

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass(frozen=True)
class ImagePreprocessing:
    """From a decoded image to normalised pixels of size × size.

    Attributes:
        size: side of the square that the backbone sees, in pixels.
        resize: bring both sides ('squash') or the 'shorter' one to `resize_to`; then the centre is cropped.
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
        width = height = self.resize_to
        if self.resize == "shorter":  # rounded down, and the crop to even, as torchvision does both
            shorter = min(image.size)
            width, height = (int(self.resize_to * side / shorter) for side in image.size)
        if image.size != (width, height):
            image = image.resize((width, height), how)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


def require_kind(backbone: BackboneSpec, kind: str, task: str) -> None:
    """Raises UserError where an image task meets a text backbone or the reverse."""
    found = backbones.kind(backbone)
    if found != kind:
        raise UserError(
            f"task.name: {task} is {'an image' if kind == 'image' else 'a text'} task, but the backbone "
            f"{backbone.name} reads {found}; choose {'an image' if kind == 'image' else 'a text'} backbone"
        )


def image_preprocessing(backbone: BackboneSpec) -> ImagePreprocessing:
    """As the backbone was pretrained: from its preprocessor_config.json, or timm's pretrained configuration.

    Raises:
        UserError: the backbone says nothing of its preprocessing.
    """
    return _image_preprocessing(backbones.pinned(backbone))


@lru_cache(maxsize=64)
def _image_preprocessing(backbone: BackboneSpec) -> ImagePreprocessing:
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
    resample = getattr(processor, "resample", None)
    interpolation = _RESAMPLING[3 if resample is None else int(resample)]
    normalises = bool(getattr(processor, "do_normalize", True))
    mean = tuple(float(v) for v in processor.image_mean) if normalises else None
    std = tuple(float(v) for v in processor.image_std) if normalises else None
    crop = dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
    sides = {name: value for name, value in size.items() if value is not None}
    for square in (sides, crop):
        if square.get("height") != square.get("width") or not (square is crop or sides.keys() & _SIZES):
            raise UserError(f"backbone.name: {backbone.name} takes images of {square}; only square ones are supported")
    resize: Literal["squash", "shorter"] = "squash" if "height" in sides else "shorter"
    resize_to = int(str(sides["height" if resize == "squash" else "shortest_edge"]))
    side = int(str(crop.get("height", resize_to)))
    return _checked(backbone, ImagePreprocessing(side, resize, resize_to, interpolation, mean, std))


_SIZES = {"height", "shortest_edge"}  # what a processor's size may be given by


def _checked(backbone: BackboneSpec, how: ImagePreprocessing) -> ImagePreprocessing:
    if how.resize_to < how.size:
        raise UserError(
            f"backbone.name: {backbone.name} resizes images to {how.resize_to} and crops {how.size} of them, which "
            "would need padding; only crops that fit are supported"
        )
    return how


def _of_timm(backbone: BackboneSpec) -> ImagePreprocessing:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    import timm.data

    config = timm.data.resolve_data_config({}, model=backbones.empty(backbone, 2))
    channels, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    if channels != 3 or height != width or mode not in ("center", "squash"):
        raise UserError(
            f"backbone.name: {backbone.name} takes images of {channels} × {height} × {width} cropped by {mode!r}; "
            "only 3 channels, squares and the crops 'center' and 'squash' are supported"
        )
    how = ImagePreprocessing(
        int(height),
        "squash" if mode == "squash" else "shorter",
        math.floor(height / config["crop_pct"]),
        str(config["interpolation"]),
        tuple(config["mean"]),
        tuple(config["std"]),
    )
    return _checked(backbone, how)


def tokenizer_of(backbone: BackboneSpec) -> Any:
    """The backbone's own fast tokenizer. Raises UserError if it has none."""
    return _tokenizer(backbones.pinned(backbone))


@lru_cache(maxsize=8)
def _tokenizer(backbone: BackboneSpec) -> Any:
    from transformers import AutoTokenizer

    from tensloradist.backbones.transformers_ import quiet, weights_folder

    if backbone.source != "transformers":
        raise UserError(
            f"backbone.source: {backbone.source!r} has no tokenizer; text tasks need a transformers backbone"
        )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(weights_folder(backbone)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone.name: {backbone.name} has no readable tokenizer ({str(error).splitlines()[0]})"
        ) from error
    backbones.require_unchanged(backbone)
    return tokenizer


def most_tokens(backbone: BackboneSpec) -> int:
    """The longest text, in tokens, that the backbone's tokenizer and its position embeddings take."""
    from tensloradist.backbones.transformers_ import config_of

    config = config_of(backbone)
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= config.pad_token_id + 1  # these count positions from there
    return int(min(tokenizer_of(backbone).model_max_length, positions))


def padding_token(backbone: BackboneSpec) -> int:
    """What texts are padded with: the tokenizer's token, or for a decoder its configuration's, by which it finds ends.

    Raises:
        UserError: the backbone has no tokenizer, or the vocabulary of its configuration lacks the tokenizer's token.
    """
    from tensloradist.backbones.decoders import DECODER_TYPES
    from tensloradist.backbones.transformers_ import config_of

    tokenizer = tokenizer_of(backbone)
    config = config_of(backbone)
    if config.model_type in DECODER_TYPES:
        return int(config.pad_token_id)
    token = int(tokenizer.pad_token_id or 0)
    if token >= config.vocab_size:
        raise UserError(
            f"backbone.name: {backbone.name}: its tokenizer pads with {tokenizer.pad_token!r}, token {token}, but the "
            f"vocab_size of its config.json is {config.vocab_size}, which allows 0..{config.vocab_size - 1}; the files "
            "are not of one model: copy the tokenizer's files of this very model"
        )
    return token
