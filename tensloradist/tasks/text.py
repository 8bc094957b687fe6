"""GLUE text classification and regression: from local jsonl files or the Hub, through `datasets`.

GLUE's validation set is the test part, since its own test labels are secret; a validation part is carved from the
training set. Text is tokenised once into the cache, and padded to the longest example of its batch. Repeated texts are
not looked for: GLUE has some, and they are examples like any other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensloradist import backbones
from tensloradist.caching import cached_folder
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, hash_path
from tensloradist.tasks import hub, metrics
from tensloradist.tasks.base import Labels, LoadedTask, MetricFunction, SplitData, Task, limited, stratified_parts
from tensloradist.tasks.preprocessing import most_tokens, padding_token, require_kind, tokenizer_of
from tensloradist.tasks.progress import quiet_datasets, tracked

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

GLUE = "nyu-mll/glue"
OFFICIAL_LENGTH = 512  # tokens that the official script pads to
FILES = ("train.jsonl", "validation.jsonl")
VALIDATION_FRACTION = 0.1  # of the training set
_VERSION = 2  # of the cache's layout


@dataclass(frozen=True)
class GlueTask:
    """One GLUE task: its text fields, number of labels (1: regression), and metrics, the primary one first."""

    name: str
    fields: tuple[str, ...]
    labels: int
    metric_names: tuple[str, ...]
    metrics: MetricFunction
    classes: tuple[str, ...] = ()  # what the labels 0, 1 mean, in GLUE's own words
    joined_officially: bool = False  # the official script joins the two texts of MRPC and QNLI into one

    @property
    def hub(self) -> hub.HubData:
        return hub.HubData(GLUE, ("train", "validation"), folder=self.name)


ENTAILMENT = ("entailment", "not_entailment")
GLUE_TASKS = {
    entry.name: entry
    for entry in (
        GlueTask("cola", ("sentence",), 2, ("matthews", "accuracy"), metrics.matthews, ("unacceptable", "acceptable")),
        GlueTask(
            "mrpc",
            ("sentence1", "sentence2"),
            2,
            ("accuracy", "f1"),
            metrics.accuracy_f1,
            ("not_equivalent", "equivalent"),
            True,
        ),
        GlueTask("rte", ("sentence1", "sentence2"), 2, ("accuracy",), metrics.accuracy, ENTAILMENT),
        GlueTask("sst2", ("sentence",), 2, ("accuracy",), metrics.accuracy, ("negative", "positive")),
        GlueTask("qnli", ("question", "sentence"), 2, ("accuracy",), metrics.accuracy, ENTAILMENT, True),
        GlueTask("stsb", ("sentence1", "sentence2"), 1, ("spearman", "pearson"), metrics.correlations),
    )
}


@dataclass(frozen=True)
class _Rows:
    ids: list[str]
    texts: list[list[str]]  # one list for each field
    labels: Labels


def _folder(task: TaskSpec) -> Path:
    path = Path(str(task.data))
    for name in FILES:
        if not (path / name).is_file():
            raise DataMissing(f"task.data: {task.data}: no {name}; expected a folder with {' and '.join(FILES)}")
    return path


def _is_local(task: TaskSpec) -> bool:
    return task.data is not None and hub.local(task) is not None


def _rows(task: TaskSpec, entry: GlueTask) -> dict[str, _Rows]:
    """The 'train' and 'validation' rows as they come, checked."""
    if not _is_local(task):
        data = hub.load(task, entry.hub)
        for split in entry.hub.splits:
            for number, row in enumerate(data[split], 1):
                _refuse(row, entry, f"task.data: {task.data or entry.hub.name}, {split}, example {number}")
        return {split: _arrays(data[split], f"{task.data or entry.hub.name}, {split}", entry) for split in data}
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    folder = _folder(task)
    for name in FILES:
        _check_lines(folder / name, entry)
    files = {name.removesuffix(".jsonl"): str(folder / name) for name in FILES}
    try:
        with quiet_datasets():
            data = load_dataset("json", data_files=files)
    except (DatasetGenerationError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"task.data: {folder}: not readable as jsonl ({reason})") from error
    return {split: _arrays(data[split], files[split], entry) for split in files}


def _check_lines(path: Path, entry: GlueTask) -> None:
    """The library's own error names no line, so each is parsed here: GLUE's files are small."""
    lines = 0
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        lines += 1
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:  # of the encoding, too
            raise UserError(f"{path}:{number}: not a line of JSON with fields ({error})") from error
        _refuse(row, entry, f"{path}:{number}")
    if not lines:
        raise UserError(f"task.data: {path}: no examples")


def _refuse(row: dict[str, Any], entry: GlueTask, where: str) -> None:
    """Raises UserError unless the row has every text and a label of the task."""
    for field in (*entry.fields, "label"):
        if field not in row:
            raise UserError(f"{where}: no field {field!r}, which task {entry.name} needs; it has {', '.join(row)}")
    for field in entry.fields:
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field} = {row[field]!r}; expected a text")
    label = row["label"]
    number = isinstance(label, int | float) and not isinstance(label, bool)
    if entry.labels == 1 and not (number and 0 <= label <= 5):
        raise UserError(f"{where}: label {label!r}; expected a number in 0..5")
    if entry.labels > 1 and not (number and isinstance(label, int)):
        raise UserError(f"{where}: label {label!r}; expected an integer in 0..{entry.labels - 1}")
    if entry.labels > 1 and not 0 <= label < entry.labels:
        raise UserError(f"{where}: label {label}, out of range 0..{entry.labels - 1}")


def _arrays(data: Any, where: str, entry: GlueTask) -> _Rows:
    if not len(data):
        raise UserError(f"task.data: {where}: no examples")
    texts = [list(data[field]) for field in entry.fields]
    ids = [str(i) for i in (data["idx"] if "idx" in data.column_names else range(len(data)))]
    if len(set(ids)) != len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise UserError(f"task.data: {where}: several examples have idx {twice}; an idx must be an example's own")
    raw = list(data["label"])
    labels: Labels = np.asarray(raw, np.float32) if entry.labels == 1 else np.asarray(raw, np.int64)
    return _Rows(ids, texts, labels)


@dataclass(frozen=True)
class _Tokens:
    """Token ids of all examples in one array, cut by `starts`; token types where the tokenizer has them."""

    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int32] | None
    starts: npt.NDArray[np.int64]


def _tokenised(
    rows: dict[str, _Rows], limit: int, backbone: BackboneSpec, joined: bool, key: tuple[str, ...]
) -> dict[str, _Tokens]:
    tokenizer = tokenizer_of(backbone)

    def make(folder: Path) -> None:
        for split, part in rows.items():
            texts = part.texts
            if joined and len(texts) == 2:
                texts = [[f"{first}</s></s>{second}" for first, second in zip(*texts, strict=True)]]
            columns: dict[str, list[npt.NDArray[np.int32]]] = {}
            for start in tracked(range(0, len(part.ids), 1000), f"tokenising {split}, thousands of examples"):
                some = [field[start : start + 1000] for field in texts]
                for name, values in tokenizer(*some, truncation=True, max_length=limit, padding=False).items():
                    columns.setdefault(name, []).extend(np.asarray(row, np.int32) for row in values)
            lengths = [len(row) for row in columns["input_ids"]]
            arrays = {"ids": np.concatenate(columns["input_ids"]), "starts": np.cumsum([0, *lengths])}
            if "token_type_ids" in columns:
                arrays["types"] = np.concatenate(columns["token_type_ids"])
            for name, array in arrays.items():
                np.save(folder / f"{split}.{name}.npy", array)

    import tokenizers

    parts = (
        "text",
        str(_VERSION),
        tokenizers.__version__,
        *key,
        backbone.fingerprint or backbones.fingerprint(backbone),
        str(limit),
        str(joined),
    )
    folder = cached_folder("text", hash_bytes(*parts), make)

    def read(split: str) -> _Tokens:
        types = folder / f"{split}.types.npy"
        return _Tokens(
            np.load(folder / f"{split}.ids.npy"),
            np.load(types) if types.exists() else None,
            np.load(folder / f"{split}.starts.npy"),
        )

    return {split: read(split) for split in rows}


class _Text(SplitData):
    """A part of a tokenised data set."""

    def __init__(
        self, rows: _Rows, tokens: _Tokens, indices: npt.NDArray[np.int64], pad: int, pad_to: int | None, prefix: str
    ) -> None:
        self.ids = [f"{prefix}-{rows.ids[i]}" for i in indices]
        self.labels = rows.labels[indices]
        self.lengths = np.diff(tokens.starts)[indices]
        self._tokens, self._indices, self._pad, self._pad_to = tokens, indices, pad, pad_to
        if pad_to is not None:
            self.lengths = None  # all batches are equally wide, so there is nothing to group

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        import torch

        chosen = self._indices[np.asarray(indices)]
        starts, ends = self._tokens.starts[chosen], self._tokens.starts[chosen + 1]
        width = self._pad_to or int((ends - starts).max())
        places = starts[:, None] + np.arange(width)
        mask = places < ends[:, None]
        places = np.where(mask, places, 0)
        ids = np.where(mask, self._tokens.ids[places], self._pad).astype(np.int64)
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if self._tokens.types is not None:
            inputs["token_type_ids"] = torch.from_numpy(np.where(mask, self._tokens.types[places], 0).astype(np.int64))
        return inputs


def _limit(task: TaskSpec, backbone: BackboneSpec, official: bool) -> int:
    """Tokens kept of an example. Raises UserError where the spec asks for more than the backbone takes.

    Under the official protocol, whose 512 are a default, the backbone's limit holds without a word.
    """
    most = most_tokens(backbone)
    wanted = task.max_length or (OFFICIAL_LENGTH if official else most)
    if wanted > most and not official:
        raise UserError(f"task.max_length: {wanted} exceeds the {most} tokens that {backbone.name} takes")
    return min(wanted, most)


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: GlueTask) -> LoadedTask:
    require_kind(backbone, "text", task.name)
    if task.augmentation != "none":
        raise UserError(f"task.augmentation: {task.augmentation!r} is for images; task {entry.name} takes none")
    pad = padding_token(backbone)
    rows = _rows(task, entry)
    data_fingerprint = task.fingerprint or fingerprint(task, entry)
    official = protocol == "official"
    limit = _limit(task, backbone, official)
    key = (data_fingerprint, *entry.fields)  # one file may serve several tasks, which read other fields of it
    tokens = _tokenised(rows, limit, backbone, official and entry.joined_officially, key)
    pad_to = limit if official else None

    def part(split: str, indices: npt.NDArray[np.int64]) -> _Text:
        return _Text(rows[split], tokens[split], indices, pad, pad_to, split)

    held_out = part("validation", np.arange(len(rows["validation"].labels)))
    everything = np.arange(len(rows["train"].labels))
    if official:
        train, validation = part("train", limited(everything, task)), held_out
    else:
        kept, carved = stratified_parts(
            rows["train"].labels, (1 - VALIDATION_FRACTION, VALIDATION_FRACTION), task.split_seed
        )
        train, validation = part("train", limited(kept, task)), part("train", carved)
    return LoadedTask(
        entry.name,
        "text",
        entry.labels,
        entry.labels == 1,
        train,
        validation,
        held_out,
        primary_metric=entry.metric_names[0],
        metric_names=entry.metric_names,
        metrics=entry.metrics,
        data_fingerprint=data_fingerprint,
        classes=entry.classes,
    )


def fingerprint(task: TaskSpec, entry: GlueTask) -> str:
    if _is_local(task):
        return hash_path(_folder(task), include=lambda name: name in FILES)
    return f"{hub.fingerprint(task, entry.hub)}#{entry.name}"


def _fetch(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: GlueTask) -> list[str]:
    loaded = load(task, backbone, protocol, entry)
    return [f"{entry.name}: {len(loaded.train)} + {len(loaded.validation)} + {len(loaded.test)} examples ready"]


def _example(folder: Path, entry: GlueTask) -> tuple[TaskSpec, BackboneSpec]:
    from tensloradist.tasks.examples import glue_folder, text_backbone

    return glue_folder(folder, entry), text_backbone(folder)


def _task(entry: GlueTask) -> Task:
    return Task(
        name=entry.name,
        kind="text",
        label=lambda task: entry.name,
        num_labels=lambda task: entry.labels,
        load=lambda task, backbone, protocol: load(task, backbone, protocol, entry),
        fingerprint=partial(fingerprint, entry=entry),
        example=partial(_example, entry=entry),
        fetch=partial(_fetch, entry=entry),
        missing=partial(hub.missing, data=entry.hub),
    )


TEXT_TASKS = [_task(entry) for entry in GLUE_TASKS.values()]
