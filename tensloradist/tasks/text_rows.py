"""The rows in the files of a GLUE task: texts, labels and names, checked line by line; `text` tokenises them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensloradist.caching import cached_json
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import hash_bytes, hash_path, read_anew
from tensloradist.tasks import hub
from tensloradist.tasks.base import Labels
from tensloradist.tasks.glue import PARTS, GlueTask
from tensloradist.tasks.lines import Lines, json_row, require_characters

if TYPE_CHECKING:
    from tensloradist.spec import TaskSpec

FILES = ("train.jsonl", "validation.jsonl")
_VERSION = 1  # of what is looked for in `_changes`


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The examples of one file or split, in its order.

    Attributes:
        ids: each example's idx, or its number.
        texts: one list for each field of the task.
        labels: (n,) int64, or float32 for regression.
        source: what comes before an example's number in a message, such as `data/train.jsonl:`.
        numbers: each example's line, or its number in the split.
    """

    ids: list[str]
    texts: list[list[str]]
    labels: Labels
    source: str
    numbers: list[int]

    def where(self, index: int) -> str:
        return f"{self.source}{self.numbers[index]}"


def is_local(task: TaskSpec) -> bool:
    return task.data is not None and hub.local(task) is not None


def read(task: TaskSpec, entry: GlueTask) -> tuple[dict[str, Rows], str]:
    """The rows of 'train' and 'validation', and the fingerprint of what they were read from.

    Raises:
        UserError: the data does not exist, or the task cannot use a row, by file and line.
    """
    if is_local(task):
        folder = _folder(task)
        content = hash_path(folder, include=FILES.__contains__)
        rows, changes = _of_folder(folder, content, entry)
        return rows, read_anew(content, changes)
    name = task.data or entry.hub.name
    data = hub.load(task, entry.hub)
    rows = {}
    for split in entry.hub.splits:
        source = f"task.data: {name}, {split}, example "
        found = list(data[split])
        for number, row in enumerate(found, 1):
            _check(row, entry, f"{source}{number}")
        rows[split] = _rows(found, list(range(1, len(found) + 1)), entry, source, f"task.data: {name}, {split}")
    return rows, f"{hub.fingerprint(task, entry.hub)}#{entry.name}"


def fingerprint(task: TaskSpec, entry: GlueTask) -> str:
    """Hash of the local files, with a word for what earlier versions read differently; or name@commit#task."""
    if not is_local(task):
        return f"{hub.fingerprint(task, entry.hub)}#{entry.name}"
    folder = _folder(task)
    content = hash_path(folder, include=FILES.__contains__)
    key = hash_bytes(str(_VERSION), content, *entry.fields)
    changes = cached_json("text-changes", key, lambda: sorted(_of_folder(folder, content, entry)[1]))
    return read_anew(content, changes)


def _folder(task: TaskSpec) -> Path:
    path = Path(str(task.data))
    for name in FILES:
        if not os.path.isfile(path / name):
            raise DataMissing(f"task.data: {task.data}: no {name}; expected a folder with {' and '.join(FILES)}")
    return path


@lru_cache(maxsize=4)  # the fingerprint and the examples come from one reading
def _of_folder(folder: Path, content: str, entry: GlueTask) -> tuple[dict[str, Rows], frozenset[str]]:
    """Split -> its rows, and what earlier versions read differently, of files whose hash is `content`."""
    rows: dict[str, Rows] = {}
    read: dict[str, _Read] = {}
    digests: list[str] = []
    wanted = (*entry.fields, "label", "idx")
    for split, name in zip(PARTS, FILES, strict=True):
        lines = Lines(folder / name)
        numbers: list[int] = []
        read[split] = []
        for line in lines:
            where = f"{lines.path}:{line.number}"
            row = json_row(line.text, where, wanted)
            _check(row, entry, where)
            numbers.append(line.number)
            read[split].append((line.offset, {field: row[field] for field in wanted if field in row}))
        found = [row for _, row in read[split]]
        rows[split] = _rows(found, numbers, entry, f"{lines.path}:", f"task.data: {lines.path}")
        digests += [name, lines.sha256]
    if hash_bytes(*digests) != content:
        raise UserError(f"task.data: {folder} has changed while it was read; start again when it is complete")
    return rows, frozenset(_changes(read["train"], read["validation"], entry))


def _check(row: dict[str, Any], entry: GlueTask, where: str) -> None:
    """Raise UserError unless the row has every text and a valid label of the task."""
    for field in (*entry.fields, "label"):
        if field not in row:
            raise UserError(f"{where}: no field {field!r}, which task {entry.name} needs; it has {', '.join(row)}")
    for field in entry.fields:
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field} = {row[field]!r}; expected a text")
        require_characters(row[field], field, where)
    if isinstance(row.get("idx"), list | dict):
        raise UserError(f"{where}: idx = {row['idx']!r}; expected a number or a text")
    if isinstance(row.get("idx"), str):
        require_characters(row["idx"], "idx", where)
    label = row["label"]
    number = isinstance(label, int | float) and not isinstance(label, bool)
    if entry.labels == 1 and not (number and 0 <= label <= 5):
        raise UserError(f"{where}: label {label!r}; expected a number in 0..5")
    if entry.labels > 1 and not (number and isinstance(label, int)):
        raise UserError(f"{where}: label {label!r}; expected an integer in 0..{entry.labels - 1}")
    if entry.labels > 1 and not 0 <= label < entry.labels:
        raise UserError(f"{where}: label {label}, out of range 0..{entry.labels - 1}")


def _rows(rows: list[dict[str, Any]], numbers: list[int], entry: GlueTask, source: str, whole: str) -> Rows:
    if not rows:
        raise UserError(f"{whole}: no examples")
    named = any("idx" in row for row in rows)
    ids = [str(row.get("idx")) if named else str(index) for index, row in enumerate(rows)]
    first: dict[str, int] = {}
    for idx, number in zip(ids, numbers, strict=True):
        if first.setdefault(idx, number) != number:
            raise UserError(
                f"{whole}: several examples have idx {idx} (numbers {first[idx]} and {number}); an idx must be unique"
            )
    labels = [row["label"] for row in rows]
    return Rows(
        ids=ids,
        texts=[[row[field] for row in rows] for field in entry.fields],
        labels=np.asarray(labels, np.float32) if entry.labels == 1 else np.asarray(labels, np.int64),
        source=source,
        numbers=numbers,
    )


_Read = list[tuple[int, dict[str, Any]]]  # (offset in the file, fields) of each example
_DATE = re.compile(r"\d{4}-\d\d-\d\d[0-9TZ :.+-]*")
_PIECE = 10 << 20  # bytes of a file for which earlier versions guessed the types at once


def _changes(train: _Read, validation: _Read, entry: GlueTask) -> set[str]:
    """A word for each thing that earlier versions, which guessed types from the data, read differently.

    'dates': all texts of a field look like dates in a piece of the files, and got a time of day there.
    'idx': names of examples were taken for dates or numbers, so that their predictions have other names.
    """
    changes = set()
    names = [row["idx"] for _, row in (*train, *validation) if row.get("idx") is not None]
    dated = any(isinstance(name, str) and _DATE.fullmatch(name) for name in names)
    large = any(isinstance(name, int) and abs(name) >= 2**63 for name in names)
    if dated or large or len({type(name) for name in names}) > 1:
        changes.add("idx")
    later = [*_pieces(train)[1:], *_pieces(validation)]  # the first piece decided what the others were converted to
    if any(all(_DATE.fullmatch(row[field]) for row in piece) for piece in later for field in entry.fields):
        changes.add("dates")
    return changes


def _pieces(read: _Read) -> list[list[dict[str, Any]]]:
    """The rows in pieces of `_PIECE` bytes, each extended to the end of its last line."""
    start, pieces = 0, [list[dict[str, Any]]()]
    for offset, row in read:
        if offset > start + _PIECE:
            start = offset
            pieces.append([])
        pieces[-1].append(row)
    return pieces
