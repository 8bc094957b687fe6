"""Image classification: folders with one sub-folder a class, and the Hub's image data sets, through `datasets`.

Images are decoded and resized once into a content-addressed cache of uint8 pixels; normalisation happens a batch at a
time. Very large data sets are decoded on the fly instead. Of a folder, only files with an image's suffix inside a
class folder count: anything else, and whatever is hidden, is ignored and not hashed. Copies of one image are not looked
for: each is an example of its own, and a folder without splits of its own may have them in different parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist.caching import cached_folder
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, hash_path
from tensloradist.tasks import hub
from tensloradist.tasks.base import Labels, LoadedTask, SplitData, Task, accuracy, limited, stratified_parts
from tensloradist.tasks.named_images import HUB_IMAGES, HubImages, Official
from tensloradist.tasks.preprocessing import ImagePreprocessing, image_preprocessing, require_kind
from tensloradist.tasks.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
PARTS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}
CACHE_LIMIT = 4 * 2**30  # bytes of decoded pixels; above, images are decoded when they are used
_VERSION = 2  # of the cache's layout and of how images are resized
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def is_image(relative: str) -> bool:
    """Files that count: images by suffix, inside a folder."""
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
        raise DataMissing(f"task.data: {task.data}: no such folder")
    hub.local(task)  # refuses a revision, which a folder has not
    return folder


def _own_splits(folder: Path) -> dict[str, str]:
    """Sub-folder -> part, where the folder holds train (and perhaps validation and test) rather than classes.

    A folder `train` with images but no folders in it is a class of that name.
    """
    names = {child.name.lower(): child.name for child in _folders(folder)}
    found = {names[alias]: part for part, aliases in PARTS.items() for alias in aliases if alias in names}
    return found if any(part == "train" and _folders(folder / name) for name, part in found.items()) else {}


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    """The images below a class folder, in no order; links are followed, as they are for the fingerprint."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != ".")


def _checked_classes(folder: Path, classes: list[str]) -> list[str]:
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no images in sub-folders"
        raise UserError(
            f"task.data: {folder}: {found}; expected at least two class folders with images ({', '.join(SUFFIXES)})"
        )
    return classes


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
        for path in sorted(image for child in _folders(root) for image in _images(child)):
            files.append(str(path))
            ids.append(path.relative_to(folder).as_posix())
            names.append(path.relative_to(root).parts[0])
            parts.append(part)
    classes = _checked_classes(folder, sorted(set(names)))
    if splits:
        untrained = sorted(set(names) - {name for name, part in zip(names, parts, strict=True) if part == "train"})
        if untrained:
            raise UserError(f"task.data: {folder}: no training images of the classes {', '.join(untrained)}")
    # `datasets` reads the images; the listing is ours, so that ids and order do not depend on where the folder lies.
    dataset = Dataset.from_dict({"image": files}).cast_column("image", Image())
    labels = np.searchsorted(classes, names).astype(np.int64)
    return _Listing(ids, labels, classes, dataset, parts if splits else None)


def _list_hub(task: TaskSpec, entry: HubImages) -> _Listing:
    data = hub.load(task, entry.hub)
    ids: list[str] = []
    labels: list[object] = []
    parts: list[str] = []
    pieces = []
    from datasets import Image, concatenate_datasets

    for split, part in ((entry.train, "train"), (entry.validation, "validation"), (entry.test, "test")):
        if split is None:
            continue
        if split not in data:
            raise UserError(f"task.data: {task.data or entry.name}: no split {split!r}; it has {', '.join(data)}")
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
        piece = piece.select_columns([entry.image])
        if entry.image != "image":
            piece = piece.rename_column(entry.image, "image")
        pieces.append(piece.cast_column("image", Image()))
    for name, label in zip(ids, labels, strict=True):
        if not isinstance(label, int) or not 0 <= label < entry.classes:
            raise UserError(
                f"task.data: {task.data or entry.name}: example {name} has {entry.label} {label!r}, out of range "
                f"0..{entry.classes - 1}"
            )
    values = np.asarray(labels, dtype=np.int64)
    classes = _names_of(data[entry.train].features[entry.label], entry.classes)
    return _Listing(ids, values, classes, concatenate_datasets(pieces), parts)


def _names_of(feature: object, number: int) -> list[str]:
    """The names that a data set on the Hub gives its labels, or the labels themselves as words."""
    names = list(getattr(feature, "names", None) or ())
    return names if len(names) == number else [str(index) for index in range(number)]


def _decoded(listing: _Listing, index: int, task: TaskSpec, how: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    from PIL import Image as Pillow

    try:
        image = listing.images[index]["image"]
        return np.asarray(how.resized(image), dtype=np.uint8).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise UserError(
            f"task.data: {task.data or task.name}: the image {listing.ids[index]} cannot be read "
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

    # The ids are part of the key, since two tasks may read different splits of one data set.
    geometry = json.dumps(how.geometry(), sort_keys=True)
    key = hash_bytes("images", str(_VERSION), PIL.__version__, data_fingerprint, geometry, *listing.ids)
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


def _split(listing: _Listing, task: TaskSpec, protocol: str, pooled: bool) -> list[npt.NDArray[np.int64]]:
    """Train, validation and test indices: the data set's own split, what it lacks carved from its training part.

    Without one: 60/20/20. Under the official protocol, which picks the epoch on the test part, validation is the test
    part: without a split of its own, or where `pooled`, 80/20; otherwise its own, the validation part trained on, too.
    """
    labels, seed = listing.labels, task.split_seed
    everything = np.arange(len(labels))
    if listing.parts is None or (pooled and protocol == "official"):
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
        return [np.sort(np.concatenate([train, validation])), test, test]
    if not len(validation):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, validation = train[kept], train[held]
    return [train, validation, test]


def _official(how: ImagePreprocessing, official: Official) -> ImagePreprocessing:
    """The official scripts' preprocessing, in proportion where the backbone's images are not of 224 pixels."""
    if official.resize is not None:
        resize_to = official.resize * how.size // 224
        how = replace(how, resize="squash", resize_to=resize_to, interpolation="bilinear")
    if official.normalisation == "backbone":
        return how
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if official.normalisation == "imagenet" else (None, None)
    return replace(how, mean=mean, std=std)


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: HubImages | None = None) -> LoadedTask:
    require_kind(backbone, "image", task.name)
    if task.max_length is not None:
        raise UserError(f"task.max_length: {task.max_length} is for text; task {task.name} takes none")
    how = image_preprocessing(backbone)
    listing = _list_folder(task) if entry is None else _list_hub(task, entry)
    official = entry.official if entry is not None else Official()
    if protocol == "official":
        how = _official(how, official)
        if official.train_examples and task.train_examples is None:
            task = task.model_copy(update={"train_examples": official.train_examples})
    data_fingerprint = task.fingerprint or fingerprint(task, entry)
    pixels = _pixels(listing, task, how, data_fingerprint)
    train, validation, test = _split(listing, task, protocol, official.pooled)
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
        classes=tuple(listing.classes),
    )


def fingerprint(task: TaskSpec, entry: HubImages | None = None) -> str:
    if entry is not None:
        return hub.fingerprint(task, entry.hub)
    return hash_path(_folder(task), include=is_image)


def num_labels(task: TaskSpec, entry: HubImages | None = None) -> int:
    if entry is not None:
        return entry.classes
    folder = _folder(task)
    roots = [folder / name for name in _own_splits(folder)] or [folder]
    found = {child.name for root in roots for child in _folders(root) if next(_images(child), None)}
    return len(_checked_classes(folder, sorted(found)))


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
        missing=(lambda task: []) if entry is None else partial(hub.missing, data=entry.hub),
    )


IMAGE_TASKS = [_task("images", None), *(_task(name, entry) for name, entry in HUB_IMAGES.items())]
