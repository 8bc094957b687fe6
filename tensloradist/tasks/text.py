"""GLUE text classification and regression: from local jsonl files (`text_rows`) or from the Hub.

GLUE's validation set is the test part, since its own test labels are secret; the validation part is taken from the
training set. Text is tokenised once into the cache, and padded to the longest example of its batch. Repeated texts,
of which GLUE has some, are examples like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tensloradist import backbones
from tensloradist.caching import cached_folder
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes
from tensloradist.metrics import scorer
from tensloradist.tasks import hub, text_rows
from tensloradist.tasks.base import (
    LoadedTask,
    SplitData,
    Task,
    drawn,
    limited,
    parts_line,
    require_fingerprint,
    stratified_parts,
)
from tensloradist.tasks.glue import GLUE_TASKS, OFFICIAL, OFFICIAL_LENGTH, GlueTask
from tensloradist.tasks.preprocessing import most_tokens, padding_token, require_kind, tokenizer_of
from tensloradist.tasks.progress import tracked
from tensloradist.tasks.text_rows import Rows, fingerprint
from tensloradist.tasks.vocabulary import check_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

VALIDATION_FRACTION = 0.1  # of the training set
_VERSION = 3  # of the cache's layout, and of how files are read


@dataclass(frozen=True)
class _Tokens:
    """Token ids of all examples in one array, cut by `starts`; token types where the tokenizer has them."""

    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int32] | None
    starts: npt.NDArray[np.int64]


def _tokenised(
    rows: dict[str, Rows], limit: int, backbone: BackboneSpec, joined: bool, key: tuple[str, ...]
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
    import transformers

    parts = (
        "text",
        str(_VERSION),
        tokenizers.__version__,
        transformers.__version__,
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

    tokens = {split: read(split) for split in rows}
    for split, part in tokens.items():
        check_tokens(part.ids, part.starts, backbone, rows[split].where)
    return tokens


class _Text(SplitData):
    """A part of a tokenised data set."""

    def __init__(
        self, rows: Rows, tokens: _Tokens, indices: npt.NDArray[np.int64], pad: int, pad_to: int | None, prefix: str
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
    """Tokens kept of an example. Raises UserError if the spec asks for more than the backbone takes.

    Under the official protocol, whose 512 are a default, the backbone's limit applies silently.
    """
    most = most_tokens(backbone)
    wanted = task.max_length or (OFFICIAL_LENGTH if official else most)
    if wanted > most and not official:
        raise UserError(f"task.max_length: {wanted} exceeds the {most} tokens that {backbone.name} takes")
    return min(wanted, most)


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str, entry: GlueTask) -> LoadedTask:
    require_kind(backbone, "text", task.name)
    backbone = backbones.pinned(backbone)
    if task.augmentation != "none":
        raise UserError(f"task.augmentation: {task.augmentation!r} is for images; task {entry.name} takes none")
    pad = padding_token(backbone)
    rows, data_fingerprint = text_rows.read(task, entry)
    require_fingerprint(task, data_fingerprint)
    official = protocol == "official"
    limit = _limit(task, backbone, official)
    key = (data_fingerprint, *entry.fields)  # one file may serve several tasks, which read other fields of it
    tokens = _tokenised(rows, limit, backbone, official and entry.joined_officially, key)
    pad_to = limit if official else None

    def part(split: str, indices: npt.NDArray[np.int64]) -> _Text:
        return _Text(rows[split], tokens[split], indices, pad, pad_to, split)

    held_out = part("validation", np.arange(len(rows["validation"].labels)))
    fitted, carved = _split(rows["train"], task, official)
    return LoadedTask(
        name=entry.name,
        kind="text",
        num_labels=entry.labels,
        regression=entry.labels == 1,
        train=part("train", fitted),
        validation=held_out if carved is None else part("train", carved),
        test=held_out,
        primary_metric=entry.metric_names[0],
        metric_names=entry.metric_names,
        metrics=scorer(*entry.metric_names),
        data_fingerprint=data_fingerprint,
        origin=_origin(task, entry, rows["train"], carved),
        classes=entry.classes,
    )


def _split(train: Rows, task: TaskSpec, official: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """The training examples, and those held out of them for validation, if any."""
    if official:
        return limited(np.arange(len(train.labels)), task), None
    fractions = (1 - VALIDATION_FRACTION, VALIDATION_FRACTION)
    kept, carved = stratified_parts(train.labels, fractions, task.split_seed)
    return limited(kept, task), carved


def _parts(task: TaskSpec, protocol: str, entry: GlueTask) -> str | None:
    if not text_rows.is_local(task):
        return None
    rows, _ = text_rows.read(task, entry)
    fitted, carved = _split(rows["train"], task, protocol == "official")
    held_out = len(rows["validation"].labels)
    sizes = (len(fitted), held_out if carved is None else len(carved), held_out)
    return parts_line(entry.name, sizes, carved is None, _origin(task, entry, rows["train"], carved))


def _origin(task: TaskSpec, entry: GlueTask, rows: Rows, carved: npt.NDArray[np.int64] | None) -> str:
    """Where each part comes from, for people; `carved`: what is held out of the training split's rows, if any."""
    if text_rows.is_local(task):
        train, validation = text_rows.FILES
    else:
        train, validation = (f"the {split} split of {task.data or entry.hub.name}" for split in entry.hub.splits)
    if carved is None:
        origin = f"{train}; {validation} is the validation part and the test part"
    else:
        origin = f"{train} ({VALIDATION_FRACTION:.0%} held out for validation); {validation} is the test part"
    return "; ".join([origin, *drawn(task, len(rows.labels) - (0 if carved is None else len(carved)))])


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
        official=OFFICIAL,
        label=lambda task: entry.name,
        num_labels=lambda task: entry.labels,
        load=lambda task, backbone, protocol: load(task, backbone, protocol, entry),
        fingerprint=partial(fingerprint, entry=entry),
        example=partial(_example, entry=entry),
        fetch=partial(_fetch, entry=entry),
        missing=partial(hub.missing, data=entry.hub),
        parts=partial(_parts, entry=entry),
    )


TEXT_TASKS = [_task(entry) for entry in GLUE_TASKS.values()]
