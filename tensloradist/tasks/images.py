"""Image classification: folders with one sub-folder a class, and the Hub's image data sets, through `datasets`.

Images are decoded and resized once into a content-addressed cache of uint8 pixels; normalisation happens a batch at a
time. Very large data sets are decoded on the fly instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist.caching import cached_folder
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes, hash_path
from tensloradist.tasks import hub
from tensloradist.tasks.base import Labels, LoadedTask, SplitData, Task, accuracy, limited, stratified_parts
from tensloradist.tasks.preprocessing import ImagePreprocessing, image_preprocessing, require_kind
from tensloradist.tasks.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
PARTS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}
CACHE_LIMIT = 4 * 2**30  # bytes of decoded pixels; above, images are decoded when they are used
_VERSION = 1  # of the cache's layout


@dataclass(frozen=True)
class HubImages:
    """A data set on the Hub: its name, columns, and splits; `official` are the official scripts' settings."""

    name: str
    label: str
    image: str = "image"
    train: str = "train"
    test: str | None = "test"
    validation: str | None = None
    classes: int = 0
    official_train_examples: int | None = None
    official_resize: int | None = None


HUB_IMAGES = {
    "dtd": HubImages("tanganke/dtd", "label", classes=47, official_train_examples=1000),
    "eurosat": HubImages("tanganke/eurosat", "label", classes=10, official_resize=300),
    "cifar10": HubImages("uoft-cs/cifar10", "label", image="img", classes=10),
    "cifar100": HubImages("uoft-cs/cifar100", "fine_label", image="img", classes=100),
    "cub": HubImages("bentrevett/caltech-ucsd-birds-200-2011", "label", classes=200),
    "fgvc_aircraft": HubImages("HuggingFaceM4/FGVC-Aircraft", "variant", validation="validation", classes=100),
}


def is_image(relative: str) -> bool:
    """Files that count: images by suffix, inside a class folder. Everything else is ignored, and not hashed."""
    return "/" in relative and relative.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class _Listing:
    """Every image of a data set before the split: where it is, its class, and its own split if it has one."""

    ids: list[str]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    images: Any  # ids -> PIL image, by index
    parts: list[str] | None  # the data set's own split of each image


def _folder(task: TaskSpec) -> Path:
    if task.data is None:
        raise UserError("task.data: missing; task images needs a folder with one sub-folder for each class")
    folder = Path(task.data)
    if not folder.is_dir():
        raise UserError(f"task.data: {task.data}: no such folder")
    return folder


def _own_splits(folder: Path) -> dict[str, str]:
    """Sub-folder -> part, where the folder holds train (and perhaps validation and test) rather than classes."""
    names = {child.name.lower(): child.name for child in folder.iterdir() if child.is_dir()}
    found = {names[alias]: part for part, aliases in PARTS.items() for alias in aliases if alias in names}
    return found if "train" in found.values() else {}


def _list_folder(task: TaskSpec) -> _Listing:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    from datasets import Dataset, Image

    folder = _folder(task)
    splits = _own_splits(folder)
    files: list[str] = []
    ids: list[str] = []
    names: list[str] = []
    parts: list[str] = []
    for root, part in [(folder / name, part) for name, part in splits.items()] or [(folder, "")]:
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root).as_posix()
            if path.is_file() and is_image(relative) and not any(p.startswith(".") for p in relative.split("/")):
                files.append(str(path))
                ids.append(path.relative_to(folder).as_posix())
                names.append(relative.split("/")[0])
                parts.append(part)
    classes = sorted(set(names))
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no images in sub-folders"
        raise UserError(
            f"task.data: {folder}: {found}; expected at least two class folders with images ({', '.join(SUFFIXES)})"
        )
    # `datasets` reads the images; the listing is ours, so that ids and order do not depend on where the folder lies.
    dataset = Dataset.from_dict({"image": files}).cast_column("image", Image())
    labels = np.searchsorted(classes, names).astype(np.int64)
    return _Listing(ids, labels, classes, dataset, parts if splits else None)


def _list_hub(task: TaskSpec, entry: HubImages) -> _Listing:
    data = hub.load(task, entry.name)
    ids: list[str] = []
    labels: list[int] = []
    parts: list[str] = []
    pieces = []
    from datasets import concatenate_datasets

    for split, part in ((entry.train, "train"), (entry.validation, "validation"), (entry.test, "test")):
        if split is None or split not in data:
            continue
        piece = data[split]
        for column in (entry.image, entry.label):
            if column not in piece.column_names:
                raise UserError(
                    f"task.data: {task.data or entry.name}: no column {column!r} in its {split} split; it "
                    f"has {', '.join(piece.column_names)}"
                )
        labels += list(piece[entry.label])
        ids += [f"{split}/{index}" for index in range(len(piece))]
        parts += [part] * len(piece)
        pieces.append(
            piece.select_columns([entry.image]).rename_column(entry.image, "image")
            if entry.image != "image"
            else piece.select_columns(["image"])
        )
    if "train" not in parts:
        raise UserError(f"task.data: {task.data or entry.name}: no split {entry.train!r}; it has {', '.join(data)}")
    values = np.asarray(labels, dtype=np.int64)
    wrong = np.flatnonzero((values < 0) | (values >= entry.classes))
    if len(wrong):
        raise UserError(
            f"task.data: {task.data or entry.name}: example {ids[wrong[0]]} has label {values[wrong[0]]}, "
            f"out of range 0..{entry.classes - 1}"
        )
    classes = [str(index) for index in range(entry.classes)]
    return _Listing(ids, values, classes, concatenate_datasets(pieces), parts)


def _decoded(listing: _Listing, index: int, task: TaskSpec, how: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    try:
        image = listing.images[index]["image"]
        return np.asarray(how.resized(image), dtype=np.uint8).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"task.data: {task.data}: the image {listing.ids[index]} cannot be read "
            f"({type(error).__name__}: {str(error)[:120]}); repair or remove it"
        ) from error


def _pixels(listing: _Listing, task: TaskSpec, how: ImagePreprocessing, data_fingerprint: str) -> Any:
    """uint8 (n, 3, size, size), mapped from the cache, or None where that would exceed `CACHE_LIMIT`."""
    shape = (len(listing.ids), 3, how.size, how.size)
    if int(np.prod(shape)) > CACHE_LIMIT:
        return None

    def make(folder: Path) -> None:
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
        for index in tracked(list(range(shape[0])), f"decoding {task.data or task.name}"):
            pixels[index] = _decoded(listing, index, task, how)
        pixels.flush()
        (folder / "ids.json").write_text(json.dumps(listing.ids))

    import PIL

    key = hash_bytes(
        "images", str(_VERSION), PIL.__version__, data_fingerprint, json.dumps(how.geometry(), sort_keys=True)
    )
    return np.load(cached_folder("images", key, make) / "pixels.npy", mmap_mode="r")


class _Images(SplitData):
    """A part of a data set of decoded (or decodable) images."""

    def __init__(
        self, listing: _Listing, pixels: Any, indices: npt.NDArray[np.int64], task: TaskSpec, how: ImagePreprocessing
    ) -> None:
        self.ids = [listing.ids[i] for i in indices]
        self.labels: Labels = listing.labels[indices]
        self._listing, self._pixels, self._indices, self._task, self._how = listing, pixels, indices, task, how

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        import torch

        chosen = self._indices[np.asarray(indices)]
        if self._pixels is None:
            raw = np.stack([_decoded(self._listing, int(i), self._task, self._how) for i in chosen])
        else:
            raw = self._pixels[chosen]
        pixels = torch.from_numpy(raw).to(torch.float32).div_(255)
        if augment is not None and self._task.augmentation != "none":
            from tensloradist.tasks.augmentation import augmented

            pixels = augmented(pixels, chosen, augment, self._task.augmentation)
        if self._how.mean is not None and self._how.std is not None:
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self._how.mean, self._how.std))
            pixels.sub_(mean).div_(std)
        return {"pixel_values": pixels}


def _split(listing: _Listing, task: TaskSpec, protocol: str) -> list[npt.NDArray[np.int64]]:
    """Train, validation and test indices. Under the official protocol validation is the test part."""
    labels, seed = listing.labels, task.split_seed
    everything = np.arange(len(labels))
    if listing.parts is None:
        if protocol == "official":
            train, test = stratified_parts(labels, (0.8, 0.2), seed)
            return [train, test, test]
        return stratified_parts(labels, (0.6, 0.2, 0.2), seed)
    own = {part: everything[np.asarray(listing.parts) == part] for part in PARTS}
    train, validation, test = own["train"], own["validation"], own["test"]
    if not len(test):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, test = train[kept], train[held]
    if protocol == "official":
        return [train, test, test]
    if not len(validation):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, validation = train[kept], train[held]
    return [train, validation, test]


def _official(how: ImagePreprocessing, entry: HubImages | None) -> ImagePreprocessing:
    """The official scripts' transforms: to 224 (or 300, then the centre), without normalisation."""
    if entry is not None and entry.official_resize:
        return replace(how, resize="shorter", resize_to=entry.official_resize, mean=None, std=None)
    return replace(how, resize="squash", resize_to=how.size, mean=None, std=None)


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: HubImages | None = None) -> LoadedTask:
    require_kind(backbone, "image", task.name)
    how = image_preprocessing(backbone)
    listing = _list_folder(task) if entry is None else _list_hub(task, entry)
    if protocol == "official":
        how = _official(how, entry)
        if entry is not None and entry.official_train_examples and task.train_examples is None:
            task = task.model_copy(update={"train_examples": entry.official_train_examples})
    data_fingerprint = task.fingerprint or fingerprint(task, entry)
    pixels = _pixels(listing, task, how, data_fingerprint)
    train, validation, test = _split(listing, task, protocol)
    parts = [_Images(listing, pixels, part, task, how) for part in (limited(train, task), validation, test)]
    fitted, chosen, held_out = parts
    return LoadedTask(
        task.name,
        "image",
        len(listing.classes),
        False,
        fitted,
        chosen,
        held_out,
        primary_metric="accuracy",
        metric_names=("accuracy",),
        metrics=accuracy,
        data_fingerprint=data_fingerprint,
    )


def fingerprint(task: TaskSpec, entry: HubImages | None = None) -> str:
    if entry is not None:
        return hub.fingerprint(task, entry.name)
    return hash_path(_folder(task), include=is_image)


def num_labels(task: TaskSpec, entry: HubImages | None = None) -> int:
    if entry is not None:
        return entry.classes
    folder = _folder(task)
    roots = [folder / name for name in _own_splits(folder)] or [folder]
    return len(
        {child.name for root in roots for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")}
    )


def _fetch(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: HubImages | None = None) -> list[str]:
    loaded = load(task, backbone, protocol, entry)
    return [
        f"{task.data or task.name}: {len(loaded.train)} + {len(loaded.validation)} + {len(loaded.test)} images ready"
    ]


def _example(folder: Path, entry: HubImages | None = None) -> tuple[TaskSpec, BackboneSpec]:
    from tensloradist.tasks.examples import image_backbone, image_folder, image_hub_folder

    if entry is None:
        return image_folder(folder), image_backbone(folder)
    return image_hub_folder(folder, entry), image_backbone(folder)


def _task(name: str, entry: HubImages | None) -> Task:
    def label(task: TaskSpec) -> str:
        return name if entry is not None or task.data is None else Path(task.data).name

    return Task(
        name=name,
        kind="image",
        label=label,
        load=lambda task, backbone, protocol: load(task, backbone, protocol, entry),
        fingerprint=partial(fingerprint, entry=entry),
        num_labels=partial(num_labels, entry=entry),
        example=partial(_example, entry=entry),
        fetch=partial(_fetch, entry=entry),
        missing=(lambda task: []) if entry is None else partial(hub.missing, default=entry.name),
    )


IMAGE_TASKS = [_task("images", None), *(_task(name, entry) for name, entry in HUB_IMAGES.items())]
