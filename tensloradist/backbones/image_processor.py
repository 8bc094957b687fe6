"""What a transformers backbone's preprocessor configuration asks for, read without the library and without torch.

The steps are those of the library's Pillow processors (`AutoImageProcessor.from_pretrained(…, backend="pil")`); its
torchvision processors round each resize differently, by a few grey levels of 255 at most. Processors with other steps
than resize, crop, rescale and normalise are refused, and so are unknown fields: ignoring a field could change pixels
silently.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes

FILE, NESTED_FILE = "preprocessor_config.json", "processor_config.json"
MODEL_TYPES = {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor"}  # of the families that are adapted
_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SQUARE, _SHORTEST = {"height": 224, "width": 224}, {"shortest_edge": 224}
_COMMON = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": None,
    "do_center_crop": None,
    "rescale_factor": 1 / 255,
    "crop_size": None,
    "default_to_square": True,
}
_OF_CLIP = {
    **_COMMON,
    "resample": 3,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
    "size": _SHORTEST,
    "default_to_square": False,
    "crop_size": _SQUARE,
    "do_center_crop": True,
    "do_convert_rgb": True,
}
# The library's defaults for the fields that a file leaves out.
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {**_COMMON, "resample": 2, "image_mean": _HALF, "image_std": _HALF, "size": _SQUARE},
    "DeiTImageProcessor": {
        **_COMMON,
        "resample": 3,
        "image_mean": _HALF,
        "image_std": _HALF,
        "size": {"height": 256, "width": 256},
        "crop_size": _SQUARE,
        "do_center_crop": True,
    },
    "BitImageProcessor": _OF_CLIP,
    "CLIPImageProcessor": _OF_CLIP,
}
# Fields that do not change a pixel of a decoded RGB image, whatever their value.
_HARMLESS = {
    "_name_or_path",
    "_processor_class",
    "_valid_processor_keys",
    "device",
    "disable_grouping",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "model_input_names",
    "pad_size",  # of do_pad, which is refused
    "processor_class",
    "return_tensors",
    "transformers_version",
    "use_fast",
}
# Fields that have no effect if they are false.
_REFUSED_UNLESS_NO = {"include_top", "offset", "reduce_labels", "rescale_offset", "use_square_size"}


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """The steps from an RGB image of 8 bits to what the model reads, in their order.

    Attributes:
        resize: bring both sides ('squash') or the 'shorter' one to `resize_to`.
        size: then crop the centre of size × size; the same as `resize_to` without a crop.
        resample: Pillow's number of the interpolation.
        mean, std: of pixels in 0..1, then subtract and divide, for each RGB channel; None: neither.
        on_white: first lay transparent images on white.
    """

    resize: Literal["squash", "shorter"]
    resize_to: int
    size: int
    resample: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    on_white: bool


def read_processor(folder: Path) -> ImageProcessor:
    """The steps that a model's folder asks for.

    Raises:
        UserError: there is no readable configuration, or a field asks for something that is not supported.
    """
    return _Reader(*_stated(folder)).steps()


def is_image_backbone(folder: Path) -> bool:
    """Whether the folder's configuration is of a family that reads images."""
    return _model_type(folder) in MODEL_TYPES


def reading_changes(folder: Path) -> list[str]:
    """What earlier versions read differently of the folder's configuration: words for `fingerprint.read_anew`.

    There are none for a model that is not an image backbone, or that has no preprocessor configuration.
    """
    if not is_image_backbone(folder) or not any((folder / name).is_file() for name in (FILE, NESTED_FILE)):
        return []
    changes = []
    try:
        if _nested(folder) is not None:  # this file is not part of the folder's hash
            changes.append(f"{NESTED_FILE}.{hash_bytes((folder / NESTED_FILE).read_bytes())[:8]}")
        steps = read_processor(folder)
    except UserError:
        return [*changes, "preprocessing"]  # earlier versions ignored it; now it is refused
    margin = steps.resize_to - steps.size
    if margin and (steps.resize == "shorter" or margin % 4 == 3):  # the crop was rounded to the nearest even pixel
        changes.append("crop")
    if steps.on_white:
        changes.append("white")
    return changes


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}; expected an object of fields")
    return found


def _model_type(folder: Path) -> Any:
    try:
        return _json(folder / "config.json").get("model_type")
    except UserError:
        return None  # building the model reports what is wrong


def _nested(folder: Path) -> dict[str, Any] | None:
    """The image processor's fields in the file that the library reads first, if they are there."""
    if not (folder / NESTED_FILE).is_file():
        return None
    found = _json(folder / NESTED_FILE).get("image_processor")
    return found if isinstance(found, dict) else None


def _stated(folder: Path) -> tuple[Path, dict[str, Any], str]:
    """The file, its fields, and the processor's name, in the library's order of preference."""
    nested = _nested(folder)
    path = folder / (FILE if nested is None else NESTED_FILE)
    if nested is None and not path.is_file():
        raise UserError(
            f"backbone.name: {folder} has no readable {FILE}, so the preprocessing of images is unknown; save the "
            "model's image processor into the folder (processor.save_pretrained)"
        )
    fields = _json(path) if nested is None else nested
    name = fields.get("image_processor_type")
    if name is None:
        name = str(fields.get("feature_extractor_type") or "").replace("FeatureExtractor", "ImageProcessor")
    name = str(name or MODEL_TYPES.get(str(_model_type(folder)), "none"))
    for ending in ("Fast", "Pil"):
        name = name.removesuffix(ending)
    return path, fields, name


class _Reader:
    """One file's fields, with the library's defaults for what it leaves out."""

    def __init__(self, path: Path, fields: dict[str, Any], name: str) -> None:
        self.path = path
        if name not in PROCESSORS:
            self.refuse("image_processor_type", name, f"is not known; supported: {', '.join(PROCESSORS)}")
        self.fields = PROCESSORS[name] | fields  # null stays null: of a do_… it means no

    def refuse(self, field: str, value: object, why: str) -> NoReturn:
        raise UserError(
            f"backbone.name: {self.path}: {field}: {json.dumps(value, default=repr)} {why}. Change the file in a copy "
            "of the model's folder, or choose another backbone"
        )

    def steps(self) -> ImageProcessor:
        self._refuse_unknown()
        self._refuse_other_ranges()
        if not self._flag("do_resize"):
            self.refuse(
                "do_resize",
                self.fields["do_resize"],
                "leaves images of different sizes, which have no common batch; set true",
            )
        resize, resize_to = self._size()
        size = self._crop() if self._flag("do_center_crop") else resize_to
        if resize == "shorter" and not self._flag("do_center_crop"):
            self.refuse("size", self.fields["size"], "without do_center_crop gives images that are not square")
        if resize_to < size:
            self.refuse(
                "crop_size",
                self.fields["crop_size"],
                f"would need padding: it resizes images to {resize_to} and crops {size} of them; only crops that fit "
                "are supported",
            )
        normalises = self._flag("do_normalize")
        return ImageProcessor(
            resize=resize,
            resize_to=resize_to,
            size=size,
            resample=self._resample(),
            mean=self._channels("image_mean") if normalises else None,
            std=self._channels("image_std") if normalises else None,
            on_white=self._flag("do_convert_rgb"),
        )

    def _refuse_unknown(self) -> None:
        for field, value in self.fields.items():
            if value is None or field in PROCESSORS["ViTImageProcessor"] or field in _HARMLESS:
                continue
            if field == "data_format":
                if value not in ("channels_first", "first"):
                    self.refuse(field, value, 'is not supported; only "channels_first" is')
            elif field.startswith("do_") or field in _REFUSED_UNLESS_NO:
                if value not in (False, 0):
                    self.refuse(field, value, "is not supported; only false is")
            else:
                self.refuse(field, value, "is not known, so what it does to pixels is not known either")

    def _flag(self, field: str) -> bool:
        value = self.fields[field]
        if value is not None and not isinstance(value, bool):
            self.refuse(field, value, "is neither true nor false")
        return bool(value)

    def _refuse_other_ranges(self) -> None:
        why = "is not supported; only pixels in 0..1 are, do_rescale true and rescale_factor 1/255"
        if not self._flag("do_rescale"):
            self.refuse("do_rescale", self.fields["do_rescale"], why)
        factor = self.fields["rescale_factor"]
        if not isinstance(factor, int | float) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
            self.refuse("rescale_factor", factor, why)

    def _channels(self, field: str) -> tuple[float, ...]:
        value = self.fields[field]
        values = [value] * 3 if isinstance(value, int | float) else value
        whole = isinstance(values, list | tuple) and len(values) == 3
        if not whole or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            self.refuse(field, value, "is neither a number nor three of them, one for each RGB channel")
        if not all(math.isfinite(v) for v in values) or (field == "image_std" and 0 in values):
            self.refuse(field, value, "has a value that is not finite, or a deviation of 0")
        return tuple(float(v) for v in values)

    def _resample(self) -> int:
        value = self.fields["resample"]
        if isinstance(value, bool) or value not in range(6):
            self.refuse("resample", value, "is not one of Pillow's interpolations, 0 to 5")
        return int(value)

    def _edges(self, field: str, square: bool) -> dict[str, Any]:
        """The field in the library's form, a mapping."""
        value = self.fields[field]
        if isinstance(value, int) and not isinstance(value, bool):
            return {"height": value, "width": value} if square else {"shortest_edge": value}
        if isinstance(value, list | tuple) and len(value) == 2:
            return {"height": value[0], "width": value[1]}
        if not isinstance(value, dict):
            self.refuse(field, value, 'is not a size; expected {"height": …, "width": …}')
        return value

    def _size(self) -> tuple[Literal["squash", "shorter"], int]:
        edges = self._edges("size", self._flag("default_to_square"))
        if edges.keys() == {"shortest_edge"}:
            return "shorter", self._side("size", edges["shortest_edge"])
        return "squash", self._square("size", edges)

    def _crop(self) -> int:
        return self._square("crop_size", self._edges("crop_size", square=True))

    def _square(self, field: str, edges: dict[str, Any]) -> int:
        if edges.keys() != {"height", "width"} or edges["height"] != edges["width"]:
            self.refuse(field, self.fields[field], 'is not supported; only squares {"height": n, "width": n} are')
        return self._side(field, edges["height"])

    def _side(self, field: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(field, self.fields[field], "is not a positive whole number of pixels")
        return value
