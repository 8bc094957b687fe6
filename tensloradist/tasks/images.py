"""Image classification: folders with one sub-folder a class, and the Hub's image data sets, through `datasets`.

The pixels of `image_pixels` are copied to the device as bytes, and augmented and normalised there, batch by batch.
`image_folders` decides which files of a folder count. Copies of one image are separate examples, and in a folder
without splits of its own they may be in different parts; the line on the parts tells how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import read_anew
from tensloradist.tasks import hub
from tensloradist.tasks.base import (
    HostBatch,
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
from tensloradist.tasks.image_pixels import Listing, cached_pixels, decoded
from tensloradist.tasks.image_readings import data_reading_changes, is_read_deep
from tensloradist.tasks.named_images import HUB_IMAGES, HubImages, Official
from tensloradist.tasks.preprocessing import ImagePreprocessing, image_preprocessing, require_kind

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec
    from tensloradist.tasks.augmentation import Counts

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


def _list_folder(task: TaskSpec) -> Listing:
    folder = _folder(task)
    found = read_folder(folder)
    classes = _classes(folder, found)
    labels = np.searchsorted(classes, found.names).astype(np.int64)
    sources = {part: f"{name}/" for part, name in found.sources.items()}
    return Listing(
        ids=found.ids,
        labels=labels,
        classes=classes,
        pictures=found.files,
        digests=found.digests,
        parts=found.parts,
        sources=sources,
        notes=found.notes,
    )


def _list_hub(task: TaskSpec, entry: HubImages) -> Listing:
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
    return Listing(
        ids=ids,
        labels=values,
        classes=classes,
        pictures=concatenate_datasets(pieces)["image"],
        digests=None,
        parts=parts,
        sources=sources,
    )


def _names_of(feature: object, number: int) -> list[str]:
    """The names that a data set on the Hub gives its labels, or the labels themselves as words."""
    names = list(getattr(feature, "names", None) or ())
    return names if len(names) == number else [str(index) for index in range(number)]


class _Images(SplitData):
    """A part of a data set of decoded (or decodable) images."""

    several_at_once = True

    def __init__(
        self,
        listing: Listing,
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
        return self.read(indices, augment).inputs()

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None) -> HostBatch:
        """The pixels as bytes, a quarter of what the model takes, and what was drawn for their augmentation."""
        import torch

        from tensloradist.tasks.augmentation import draws

        chosen = self._indices[np.asarray(indices)]
        if self._pixels is None:
            raw = np.stack([decoded(self._listing, int(i), self._task, self._how, self._deep) for i in chosen])
        else:
            raw = self._pixels[chosen]
        tensors, counts = {"pixels": torch.from_numpy(raw)}, None
        if augment is not None and self._task.augmentation != "none":
            drawn, counts = draws(chosen, augment, self._task.augmentation)
            tensors |= drawn
        if self._how.mean is not None and self._how.std is not None:
            tensors["normalisation"] = torch.tensor((self._how.mean, self._how.std)).view(2, 1, 3, 1, 1)
        return HostBatch(tensors, partial(_pixel_values, counts))


def _pixel_values(counts: Counts | None, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's input from what `_Images.read` gives, on the device of these tensors.

    Args:
        counts: of `augmentation.draws`; None: not augmented.
    """
    import torch

    from tensloradist.tasks.augmentation import augmented

    pixels = tensors["pixels"].to(torch.float32).div_(255)
    if counts is not None:
        pixels = augmented(pixels, tensors, counts)
    if "normalisation" in tensors:
        mean, std = tensors["normalisation"].unbind()
        pixels.sub_(mean).div_(std)
    return {"pixel_values": pixels}


@dataclass(frozen=True)
class _Split:
    """Indices of the three parts, and in words where they came from."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    origin: str


def _split(listing: Listing, task: TaskSpec, protocol: str, pooled: bool) -> _Split:
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
    origins = {part: source for part, source in listing.sources.items() if len(own[part])}
    source = listing.sources["train"]
    if not len(test):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, test = train[kept], train[held]
        origins |= {"train": f"80 % of {source}", "test": f"20 % of {source}"}
    if protocol == "official":
        trained = " and ".join(origins[part] for part in ("train", "validation") if part in origins)
        return _Split(
            np.sort(np.concatenate([train, validation])), test, test, f"train: {trained}, test: {origins['test']}"
        )
    if not len(validation):
        kept, held = stratified_parts(labels[train], (0.8, 0.2), seed)
        train, validation = train[kept], train[held]
        shares = ("64", "16") if origins["train"] != source else ("80", "20")
        origins |= {"train": f"{shares[0]} % of {source}", "validation": f"{shares[1]} % of {source}"}
    return _Split(train, validation, test, ", ".join(f"{part}: {origins[part]}" for part in PART_WORDS))


def _origin(split: _Split, listing: Listing, task: TaskSpec) -> str:
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
    pixels = cached_pixels(listing, task, how, data_fingerprint, lambda: fingerprint(task, entry))
    split, deep = _split(listing, task, protocol, official.pooled), is_read_deep(data_fingerprint)
    fitted, chosen, held_out = (
        _Images(listing, pixels, part, task, how, deep)
        for part in (limited(split.train, task), split.validation, split.test)
    )
    return LoadedTask(
        name=task.name,
        kind="image",
        num_labels=len(listing.classes),
        regression=False,
        train=fitted,
        validation=chosen,
        test=held_out,
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
        official={} if entry is None else entry.official.defaults,
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
