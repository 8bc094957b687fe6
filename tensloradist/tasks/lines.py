"""Text files line by line: UTF-8, with or without byte order marks, with the line ends of any system.

Types are never inferred: a line of JSON is read as Python's `json` reads it. The bytes are hashed as they are read, so
that the examples are certain to be those of the fingerprint.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tensloradist.errors import UserError

_MARK = "\ufeff"  # the byte order mark, which editors of Windows put before UTF-8, too
_OTHER_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """A line without its end and without a byte order mark.

    Attributes:
        number: from 1.
        offset: of its first byte in the file.
    """

    number: int
    offset: int
    text: str


class Lines:
    """The lines of a file that are not blank. Only a line feed, a carriage return, or both end a line: U+2028 does not.

    Iterating raises UserError if the file cannot be read, or a line is not UTF-8.

    Attributes:
        marked: whether a line began with a byte order mark: the first, or that of a file appended to another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marked = False
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Line]:
        try:
            with self.path.open("rb") as file:
                yield from self._of(file)
        except OSError as error:
            raise UserError(f"task.data: {self.path}: cannot be read ({error.strerror or error})") from error

    def _of(self, file: Iterable[bytes]) -> Iterator[Line]:
        number = offset = 0
        for raw in file:  # up to a line feed; there may be carriage returns within
            self._digest.update(raw)
            if not offset:
                _refuse_wide(raw, self.path)
            for piece in raw.splitlines(keepends=True):
                number += 1
                try:
                    text = piece.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{self.path}:{number}: not UTF-8 text ({error.reason} at byte {error.start + 1} of the line); "
                        "save the file as UTF-8"
                    ) from error
                if text.startswith(_MARK):
                    self.marked, text = True, text.removeprefix(_MARK)
                if text.strip():
                    yield Line(number, offset, text)
                offset += len(piece)

    @property
    def sha256(self) -> str:
        """The hash of all bytes once the last line is read, the same as `fingerprint.hash_path` gives for the file."""
        return self._digest.hexdigest()


def _refuse_wide(start: bytes, path: Path) -> None:
    if start.startswith(_OTHER_MARKS) or b"\0" in (start[:1], start[1:2]):
        raise UserError(
            f"task.data: {path}: not UTF-8 text but UTF-16 or UTF-32; convert it, for example with "
            f"`iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}`"
        )


class _Row(dict[str, Any]):
    """A JSON object that knows which of its names occurred several times."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = {name for name in names if names.count(name) > 1} if len(self) < len(names) else set()


def json_row(text: str, where: str, fields: Collection[str]) -> dict[str, Any]:
    """The object that a line of JSON holds.

    Args:
        where: file and line, for messages.
        fields: those that are read; the others may hold anything.

    Raises:
        UserError: the line is not a JSON object, or has one of the fields twice.
    """
    try:
        row = json.loads(text, object_pairs_hook=_Row)
        if not isinstance(row, _Row):
            raise ValueError("not an object")
    except RecursionError as error:
        raise UserError(f"{where}: not a line of JSON with fields (brackets are nested too deeply)") from error
    except ValueError as error:
        raise UserError(f"{where}: not a line of JSON with fields ({error})") from error
    for field in fields:
        if field in row.repeated:
            raise UserError(f"{where}: the field {field!r} is there twice; keep one of them")
    return row


def require_characters(text: str, field: str, where: str) -> None:
    r"""Raise UserError for half of a surrogate pair, such as the \ud83d that remains when an emoji is cut in two."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {field} has \\u{ord(text[error.start]):04x} as character {error.start + 1}, which is half of a "
            "surrogate pair and not a character; remove it, or write U+FFFD in its place"
        ) from error
