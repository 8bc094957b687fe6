"""Image classification: folders with one sub-folder a class, and the Hub's image data sets, through `datasets`.

Images are decoded and resized once into a content-addressed cache of uint8 pixels; normalisation happens a batch at a
time. Very large data sets are decoded on the fly instead. What of a folder counts is in `image_folders`. Copies of one
image are examples of their own, and a folder without splits of its own may have them in different parts; the line on
the parts says how many there are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist.caching import cached_folder
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, read_anew
from tensloradist.tasks import hub
from tensloradist.tasks.base import (
    Labels,
    LoadedTask,
    SplitData,
    Task,
    accuracy,
    describe_parts,
    drawn,
    limited,
    parts_line,
    stratified_parts,
)
from tensloradist.tasks.image_folders import PART_WORDS, SUFFIXES, ImageFolder, read_folder, shown
from tensloradist.tasks.image_readings import data_reading_changes, is_read_deep
from tensloradist.tasks.named_images import HUB_IMAGES, HubImages, Official
from tensloradist.tasks.pictures import BROKEN, UnsupportedPicture, rgb
from tensloradist.tasks.preprocessing import ImagePreprocessing, image_preprocessing, require_kind
from tensloradist.tasks.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

CACHE_LIMIT = 4 * 2**30  # bytes of decoded pixels; above, images are decoded when they are used
_VERSION = 3  # of the cache's layout and of how images are resized
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Listing:
    """Every image of a data set before the split: where it is, its class, and its own split if it has one."""

    ids: list[str]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    pictures: Sequence[Any]  # each image's path, or what `datasets` has of it, a copy of ours: {"path", "bytes"}
    digests: list[str] | None  # each image's SHA-256, where `pictures` are paths: what lies there may be replaced
    parts: list[str] | None  # the data set's own split of each image
    sources: dict[str, str]  # part -> what it is called
    notes: tuple[str, ...] = ()


def _folder(task: TaskSpec) -> Path:
    if task.data is None:
        raise UserError("task.data: missing; task images needs a folder with one sub-folder for each class")
    folder = Path(task.data)
    if not os.path.isdir(folder):
        raise DataMissing(f"task.data: {task.data}: no such folder")
    hub.local(task)  # refuses a revision, which a folder has not
    return folder


def _classes(folder: Path, found: ImageFolder) -> list[str]:
    classes = sorted(set(found.names))
    if len(classes) < 2:
        only = f"only the class {classes[0]!r}" if classes else "no images in sub-folders"
        raise UserError(
            f"task.data: {folder}: {only}; expected at least two class folders with images ({', '.join(SUFFIXES)})"
        )
    if found.parts is not None:
        trained = {name for name, part in zip(found.names, found.parts, strict=True) if part == "train"}
        untrained = [shown(name) for name in classes if name not in trained]
        if untrained:
            raise UserError(f"task.data: {folder}: no training images of the classes {', '.join(untrained)}")
    return classes


def _list_folder(task: TaskSpec) -> _Listing:
    folder = _folder(task)
    found = read_folder(folder)
    classes = _classes(folder, found)
    labels = np.searchsorted(classes, found.names).astype(np.int64)
    sources = {part: f"{name}/" for part, name in found.sources.items()}
    return _Listing(found.ids, labels, classes, found.files, found.digests, found.parts, sources, found.notes)


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
        pieces.append(piece.cast_column("image", Image(decode=False)))
    for name, label in zip(ids, labels, strict=True):
        if not isinstance(label, int) or not 0 <= label < entry.classes:
            raise UserError(
                f"task.data: {task.data or entry.name}: example {name} has {entry.label} {label!r}, out of range "
                f"0..{entry.classes - 1}"
            )
    values = np.asarray(labels, dtype=np.int64)
    classes = _names_of(data[entry.train].features[entry.label], entry.classes)
    named = {"train": entry.train, "validation": entry.validation, "test": entry.test}
    sources = {part: f"split {split}" for part, split in named.items() if split is not None}
    return _Listing(ids, values, classes, concatenate_datasets(pieces)["image"], None, parts, sources)


def _names_of(feature: object, number: int) -> list[str]:
    """The names that a data set on the Hub gives its labels, or the labels themselves as words."""
    names = list(getattr(feature, "names", None) or ())
    return names if len(names) == number else [str(index) for index in range(number)]


def _decoded(
    listing: _Listing, index: int, task: TaskSpec, how: ImagePreprocessing, deep: bool
) -> npt.NDArray[np.uint8]:
    """uint8 (3, size, size) of one image; `deep`: whether grey of more than 8 bits may occur in this data."""
    from PIL import Image as Pillow

    try:
        image = rgb(_source(listing, index, task), on_white=how.on_white, deep=deep)
        return np.asarray(how.resized(image), dtype=np.uint8).transpose(2, 0, 1)
    except (*BROKEN, Pillow.DecompressionBombError) as error:
        name = f"task.data: {task.data or task.name}: the image {shown(listing.ids[index])}"
        if isinstance(error, UnsupportedPicture):
            raise UserError(f"{name} is not supported: {error}") from error
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        if isinstance(error, Pillow.UnidentifiedImageError):  # whose message names the stream in memory
            reason = "its content is no picture in a format that Pillow knows"
        raise UserError(f"{name} cannot be read ({reason}); repair or remove it") from error


def _source(listing: _Listing, index: int, task: TaskSpec) -> str | bytes:
    """The bytes of one image, or a path that `datasets` has of it.

    Raises:
        UserError: another picture lies there than when the data was listed.
    """
    found = listing.pictures[index]
    if listing.digests is None:
        return found["bytes"] or found["path"]  # type: ignore[no-any-return]
    content = Path(found).read_bytes()
    if hashlib.sha256(content).hexdigest() != listing.digests[index]:
        raise UserError(
            f"task.data: {task.data}: the image {shown(listing.ids[index])} was replaced while the data was in use; "
            "start again, so that its fingerprint is taken anew"
        )
    return content


def _pixels(
    listing: _Listing, task: TaskSpec, how: ImagePreprocessing, data_fingerprint: str, now: Callable[[], str]
) -> Any:
    """uint8 (n, 3, size, size), mapped from the cache, or None where that would exceed `CACHE_LIMIT`.

    Args:
        now: the data's fingerprint after decoding: pixels of other files are never kept under this one.
    """
    shape = (len(listing.ids), 3, how.size, how.size)
    if int(np.prod(shape)) > CACHE_LIMIT:
        _require_same(now(), data_fingerprint, task)  # so the digests listed are those of the fingerprint
        return None

    def make(folder: Path) -> None:
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
        for index in tracked(list(range(shape[0])), f"decoding {task.data or task.name}"):
            pixels[index] = _decoded(listing, index, task, how, is_read_deep(data_fingerprint))
        pixels.flush()
        _require_same(now(), data_fingerprint, task)
        (folder / "ids.json").write_text(json.dumps(listing.ids), encoding="utf-8")

    import PIL

    # The ids are part of the key, since two tasks may read different splits of one data set.
    geometry = json.dumps(how.geometry(), sort_keys=True)
    key = hash_bytes("images", str(_VERSION), PIL.__version__, data_fingerprint, geometry, *listing.ids)
    return np.load(cached_folder("images", key, make) / "pixels.npy", mmap_mode="r")


def _require_same(now: str, data_fingerprint: str, task: TaskSpec) -> None:
    if now != data_fingerprint:
        raise UserError(f"task.data: {task.data} has changed while it was read; start again when it is complete")


class _Images(SplitData):
    """A part of a data set of decoded (or decodable) images."""

    def __init__(
        self,
        listing: _Listing,
        pixels: Any,
        indices: npt.NDArray[np.int64],
        task: TaskSpec,
        how: ImagePreprocessing,
        deep: bool,
    ) -> None:
        self.ids = [listing.ids[i] for i in indices]
        self.labels: Labels = listing.labels[indices]
        self._listing, self._pixels, self._indices, self._task, self._how = listing, pixels, indices, task, how
        self._deep = deep

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        import torch

        chosen = self._indices[np.asarray(indices)]
        if self._pixels is None:
            raw = np.stack([_decoded(self._listing, int(i), self._task, self._how, self._deep) for i in chosen])
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


@dataclass(frozen=True)
class _Split:
    """Indices of the three parts, and in words where they came from."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    origin: str


def _split(listing: _Listing, task: TaskSpec, protocol: str, pooled: bool) -> _Split:
    """The data set's own split, what it lacks carved from its training part.

    Without one: 60/20/20. Under the official protocol, which picks the epoch on the test part, validation is the test
    part: without a split of its own, or where `pooled`, 80/20; otherwise its own, the validation part trained on, too.
    """
    labels, seed = listing.labels, task.split_seed
    everything = np.arange(len(labels))
    whole = f"{shown(Path(task.data).absolute().name)}/" if task.data else task.name
    if listing.parts is None or (pooled and protocol == "official"):
        whole = " and ".join(listing.sources.values()) or whole
        if protocol == "official":
            train, test = stratified_parts(labels, (0.8, 0.2), seed)
            return _Split(train, test, test, f"80/20 % of {whole}")
        train, validation, test = stratified_parts(labels, (0.6, 0.2, 0.2), seed)
        return _Split(train, validation, test, f"60/20/20 % of {whole}")
    own = {part: everything[np.asarray(listing.parts) == part] for part in PART_WORDS}
    train, validation, test = own["train"], own["validation"], own["test"]
    said = {part: source for part, source in listing.sources.items() if len(own[part])}
    source = listing.sources["train"]
    if not len(test):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, test = train[kept], train[held]
        said |= {"train": f"80 % of {source}", "test": f"20 % of {source}"}
    if protocol == "official":
        trained = " and ".join(said[part] for part in ("train", "validation") if part in said)
        return _Split(
            np.sort(np.concatenate([train, validation])), test, test, f"train: {trained}, test: {said['test']}"
        )
    if not len(validation):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, validation = train[kept], train[held]
        shares = ("64", "16") if said["train"] != source else ("80", "20")
        said |= {"train": f"{shares[0]} % of {source}", "validation": f"{shares[1]} % of {source}"}
    return _Split(train, validation, test, ", ".join(f"{part}: {said[part]}" for part in PART_WORDS))


def _origin(split: _Split, listing: _Listing, task: TaskSpec) -> str:
    return "; ".join([split.origin, *drawn(task, len(split.train)), *listing.notes])


def _official(how: ImagePreprocessing, official: Official) -> ImagePreprocessing:
    """The official scripts' preprocessing, in proportion where the backbone's images are not of 224 pixels."""
    if official.resize is not None:
        resize_to = official.resize * how.size // 224
        how = replace(how, resize="squash", resize_to=resize_to, interpolation="bilinear", crop="nearest_even")
    if official.normalisation == "backbone":
        return how
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if official.normalisation == "imagenet" else (None, None)
    return replace(how, mean=mean, std=std, on_white=False)


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
    pixels = _pixels(listing, task, how, data_fingerprint, lambda: fingerprint(task, entry))
    split, deep = _split(listing, task, protocol, official.pooled), is_read_deep(data_fingerprint)
    fitted, chosen, held_out = (
        _Images(listing, pixels, part, task, how, deep)
        for part in (limited(split.train, task), split.validation, split.test)
    )
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
        origin=_origin(split, listing, task),
    )


def fingerprint(task: TaskSpec, entry: HubImages | None = None) -> str:
    if entry is None:
        return read_folder(_folder(task)).fingerprint
    found, copy = hub.fingerprint(task, entry.hub), hub.local(task)
    return found if copy is None else read_anew(found, data_reading_changes(copy, found))


def num_labels(task: TaskSpec, entry: HubImages | None = None) -> int:
    if entry is not None:
        return entry.classes
    folder = _folder(task)
    return len(_classes(folder, read_folder(folder)))


def _parts(task: TaskSpec, protocol: str, entry: HubImages | None = None) -> str | None:
    if entry is not None:
        return None
    listing = _list_folder(task)
    split = _split(listing, task, protocol, pooled=False)
    sizes = [len(part) for part in (limited(split.train, task), split.validation, split.test)]
    return parts_line(task.name, sizes, split.validation is split.test, _origin(split, listing, task))


def _fetch(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: HubImages | None = None) -> list[str]:
    loaded = load(task, backbone, protocol, entry)
    return [f"{describe_parts(loaded)}: ready"]


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
        parts=partial(_parts, entry=entry),
    )


IMAGE_TASKS = [_task("images", None), *(_task(name, entry) for name, entry in HUB_IMAGES.items())]
