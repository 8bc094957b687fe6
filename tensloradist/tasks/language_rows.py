"""The prompts and answers in the files of causal_lm, checked line by line; `language` tokenises them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist.caching import cached_json
from tensloradist.errors import DataMissing, UserError
from tensloradist.fingerprint import DIGITS, digest_of, hash_bytes, hash_path, read_anew
from tensloradist.tasks.lines import Lines, json_row, require_characters

if TYPE_CHECKING:
    from tensloradist.spec import TaskSpec

NAME = "causal_lm"
ENDINGS = (".jsonl", ".txt")
PARTS = ("train", "validation", "test")
_VERSION = 2  # of what is looked for in a file's changes


@dataclass(frozen=True)
class Example:
    """One line of a file, with its file and number."""

    prompt: str
    answer: str
    where: str


def _files(task: TaskSpec) -> dict[str, Path]:
    """Part -> its file; 'all' for a single file. Raises UserError if a folder's files are ambiguous."""
    if task.data is None:
        raise UserError(f"task.data: {NAME} needs a .jsonl or .txt file, or a folder with train and test files")
    path = Path(task.data).expanduser()
    if os.path.isfile(path):
        if path.suffix not in ENDINGS:
            raise UserError(f"task.data: {task.data} is neither .jsonl nor .txt")
        return {"all": path}
    if not os.path.isdir(path):
        raise DataMissing(f"task.data: {task.data}: no such file or folder")
    found: dict[str, Path] = {}
    for part in PARTS:
        files = [path / f"{part}{ending}" for ending in ENDINGS if (path / f"{part}{ending}").is_file()]
        if len(files) > 1:
            raise UserError(f"task.data: {path} has both {files[0].name} and {files[1].name}; keep one of them")
        if files:
            found[part] = files[0]
        elif part != "validation":
            raise UserError(f"task.data: {path} has no {part}.jsonl and no {part}.txt; it needs train and test files")
    return found


@dataclass(frozen=True)
class _File:
    """The examples of a file, the hash of its bytes, and words for what earlier versions read differently."""

    examples: tuple[Example, ...]
    sha256: str
    changes: frozenset[str]


@lru_cache(maxsize=4)  # the fingerprint and the examples come from one reading
def _read(path: Path, content: str) -> _File:
    """The examples of a file whose hash is `content`.

    Raises:
        UserError: a line that is not an example, with its number.
    """
    lines = Lines(path)
    parse = _of_json if path.suffix == ".jsonl" else _of_text
    examples = [parse(line.text, f"{path}:{line.number}") for line in lines]
    if not lines.sha256.startswith(content):
        raise UserError(f"task.data: {path} has changed while it was read; start again when it is complete")
    if not examples:
        raise UserError(f"task.data: {path}: no examples")
    changes = {"marks"} if lines.marked and path.suffix == ".txt" else set()
    if any(_may_have_control_tokens(example) for example in examples):
        changes.add("control_tokens")
    return _File(tuple(examples), lines.sha256, frozenset(changes))


def _of_text(line: str, where: str) -> Example:
    prompt, tab, answer = line.partition("\t")
    return _checked(Example(prompt, answer, where) if tab else Example("", line, where))


def _of_json(line: str, where: str) -> Example:
    row = json_row(line, where, ("prompt", "answer"))
    for field in ("prompt", "answer"):
        if not isinstance(row.get(field), str):
            has = f"{field} = {row[field]!r}" if field in row else f"no field {field!r}; it has {', '.join(row)}"
            raise UserError(f"{where}: {has}; expected the texts 'prompt' and 'answer'")
        require_characters(row[field], field, where)
    return _checked(Example(row["prompt"], row["answer"], where))


def _checked(example: Example) -> Example:
    if not example.answer:
        raise UserError(f"{example.where}: the answer is empty, so there is nothing to learn")
    return example


# Possible tokens for the beginning or the end of a text: a word in <> or [], such as <s>, <|im_end|>, [SEP].
# Other tags of lower-case letters, such as <b>, are markup, and [INST] marks a turn within a text.
_TOKEN = (
    r"</?(?:s|bos|eos|sos|sop|eop|eod|eot|cls|sep)>|<(?![a-z][a-z0-9]*>)[^<>\s/]+>"
    r"|\[(?!INST\])[A-Za-z_]+\]"
)
_BEGINNING = re.compile(_TOKEN)
_END = re.compile(rf"(?:{_TOKEN})\s*\Z")


def may_begin(text: str) -> bool:
    """Whether a text may begin with a tokenizer's token for the beginning of a text."""
    return _BEGINNING.match(text) is not None


def may_end(text: str) -> bool:
    """Whether a text may end with a tokenizer's token for the end of a text, and perhaps a line end."""
    return text.rstrip().endswith((">", "]")) and _END.search(text) is not None


def _may_have_control_tokens(example: Example) -> bool:
    """Whether earlier versions may have doubled a beginning or an end of text, or dropped a prompt's last token.

    The form of the tokens decides, since data has one fingerprint for all tokenizers.
    """
    return may_begin(example.prompt) or may_end(example.prompt) or may_end(example.answer)


def read(task: TaskSpec) -> tuple[dict[str, Path], dict[str, tuple[Example, ...]], str]:
    """Part -> its file, part -> its examples, and the fingerprint of what was read."""
    files = _files(task)
    found = {part: _read(path, hash_path(path)) for part, path in files.items()}
    content = _content(files, {part: file.sha256 for part, file in found.items()})
    changes = {word for file in found.values() for word in file.changes}
    return files, {part: file.examples for part, file in found.items()}, read_anew(content, changes)


def fingerprint(task: TaskSpec) -> str:
    """Hash of the files, with a word for what earlier versions read differently."""
    files = _files(task)
    content = _content(files, {part: digest_of(path) for part, path in files.items()})
    key = hash_bytes(str(_VERSION), content)
    return read_anew(content, cached_json("language-changes", key, lambda: _changes(files)))


def _changes(files: dict[str, Path]) -> list[str]:
    return sorted({word for path in files.values() for word in _read(path, hash_path(path)).changes})


def _content(files: dict[str, Path], digests: dict[str, str]) -> str:
    """The hash of the files, the same as `hash_path` gives for one file, or for a folder with just these."""
    if "all" not in files:
        parts = sorted((path.name, digests[part]) for part, path in files.items())
        return hash_bytes(*(text for pair in parts for text in pair))
    content = digests["all"][:DIGITS]
    # The same bytes are different examples as lines of text and as lines of JSON.
    return hash_bytes(".txt", content) if files["all"].suffix == ".txt" else content
