"""Preprocessing that follows the backbone: image size and normalisation, or the tokenizer, as its own files say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tensloradist import backbones
from tensloradist.backbones.image_processor import read_processor
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
        crop: where an odd margin is cut: one pixel less at the left and top ('down', as transformers), or so that an
            even number is cut there ('nearest_even', as torchvision).
        on_white: whether transparent images are laid on white, or lose their alpha.
        mean, std: of each RGB channel in 0..1; None: no normalisation (the official protocol).
    """

    size: int
    resize: Literal["squash", "shorter"]
    resize_to: int
    interpolation: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    crop: Literal["down", "nearest_even"] = "nearest_even"
    on_white: bool = False

    def geometry(self) -> dict[str, Any]:
        """What decides the resized pixels: the part of the cache's key."""
        return {key: value for key, value in asdict(self).items() if key not in ("mean", "std")}

    def resized(self, image: Image.Image) -> Image.Image:
        """An RGB image, resized and centre-cropped to size × size."""
        from PIL import Image as Pillow

        how = Pillow.Resampling[self.interpolation.upper()]
        width = height = self.resize_to
        if self.resize == "shorter":  # rounded down, as torchvision and transformers do
            shorter = min(image.size)
            width, height = (int(self.resize_to * side / shorter) for side in image.size)
        if image.size != (width, height):
            image = image.resize((width, height), how)
        cut = round if self.crop == "nearest_even" else math.floor
        left, top = cut((width - self.size) / 2), cut((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


def require_kind(backbone: BackboneSpec, kind: str, task: str) -> None:
    """Raise UserError for an image task with a text backbone, or the reverse."""
    found = backbones.kind(backbone)
    if found != kind:
        raise UserError(
            f"task.name: {task} is {'an image' if kind == 'image' else 'a text'} task, but the backbone "
            f"{backbone.name} reads {found}; choose {'an image' if kind == 'image' else 'a text'} backbone"
        )


def image_preprocessing(backbone: BackboneSpec) -> ImagePreprocessing:
    """As the backbone was pretrained: from its preprocessor_config.json, or timm's pretrained configuration.

    Raises:
        UserError: the backbone does not define its preprocessing, or asks for something that is not supported.
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
    from tensloradist.backbones.transformers_ import weights_folder

    # The folder of the pinned commit, so that preprocessing and weights cannot come from two.
    asked = read_processor(weights_folder(backbone))
    return ImagePreprocessing(
        asked.size,
        asked.resize,
        asked.resize_to,
        _RESAMPLING[asked.resample],
        asked.mean,
        asked.std,
        crop="down",
        on_white=asked.on_white,
    )


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
    if config["interpolation"] not in _RESAMPLING.values():
        raise UserError(
            f"backbone.name: {backbone.name}: interpolation: {config['interpolation']!r} is not supported; expected "
            f"one of {', '.join(_RESAMPLING.values())}"
        )
    resize_to = math.floor(height / config["crop_pct"])
    if resize_to < height:
        raise UserError(
            f"backbone.name: {backbone.name}: crop_pct: {config['crop_pct']} resizes images to {resize_to} and crops "
            f"{height} of them, which would need padding; only crop_pct of at most 1 is supported"
        )
    return ImagePreprocessing(
        int(height),
        "squash" if mode == "squash" else "shorter",
        resize_to,
        str(config["interpolation"]),
        _three(backbone, "mean", config["mean"]),
        _three(backbone, "std", config["std"]),
    )


def _three(backbone: BackboneSpec, field: str, values: Any) -> tuple[float, ...]:
    """One value for each channel; timm takes one for all."""
    found = tuple(float(value) for value in values) if isinstance(values, list | tuple) else (float(values),)
    if len(found) not in (1, 3) or not all(math.isfinite(v) for v in found) or (field == "std" and 0 in found):
        raise UserError(f"backbone.name: {backbone.name}: {field}: {values!r}; expected three finite numbers")
    return found if len(found) == 3 else found * 3


def tokenizer_of(backbone: BackboneSpec) -> Any:
    """The backbone's own fast tokenizer. Raises UserError if it has none."""
    return _tokenizer(backbones.pinned(backbone))


@lru_cache(maxsize=8)
def _tokenizer(backbone: BackboneSpec) -> Any:
    from transformers import AutoTokenizer

    from tensloradist.backbones.quiet import quiet
    from tensloradist.backbones.transformers_ import weights_folder

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
