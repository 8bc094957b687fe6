"""Which pictures a folder holds, their classes and parts, and what of the folder is not used. No torch, no decoding.

A folder has one sub-folder for each class, or the parts of a data set (`train`, and perhaps `val` and `test`, by the
words that `datasets` knows) with class folders in them. Pictures of a class may be in folders of any depth below it.
Hidden files, and folders that operating systems add, are ignored. A file that several links lead to counts once.
An ambiguous folder is refused; `notes` tell what else is not used.
"""

from __future__ import annotations

import os
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.fingerprint import digest_of, hash_files, read_anew
from tensloradist.tasks.pictures import file_reading_changes
from tensloradist.wording import counted

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
PART_WORDS = {  # those of `datasets.data_files.SPLIT_KEYWORDS`
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_NEW_WORDS = ("dev", "eval", "evaluation")  # earlier versions ignored folders of these names
_SYSTEM_FOLDERS = (
    *("@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "__pycache__"),
    *("lost+found", "system volume information"),
)
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_ARRANGE = "give every class one folder, or every part (train, val, test) one with class folders in it"
_names = reprlib.Repr()
_names.maxstring = 60


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The pictures of a folder, in a fixed order.

    Attributes:
        files: each picture's path.
        ids: each picture's path below the folder, with `/`.
        digests: each picture's SHA-256.
        names: each picture's class.
        parts: each picture's part (train, validation, test), or None if the folder has no parts of its own.
        sources: part -> the name of its folder; empty without parts.
        notes: what is not used, and what else a user should know, one sentence each.
        fingerprint: hash of the pictures' names and contents, and of how they are read if that has changed.
    """

    files: list[str]
    ids: list[str]
    digests: list[str]
    names: list[str]
    parts: list[str] | None
    sources: dict[str, str]
    notes: tuple[str, ...]
    fingerprint: str


def shown(name: str) -> str:
    """A name fit for a message: unchanged, or quoted, escaped and shortened."""
    plain = name.isprintable() and len(name) <= _names.maxstring
    return name if plain else _names.repr(name)


def part_of(name: str) -> str | None:
    """The part that a folder's name stands for, or None."""
    return next((part for part, words in PART_WORDS.items() if name.lower() in words), None)


def read_folder(folder: Path) -> ImageFolder:
    """List a folder; its files are hashed, but not decoded.

    Raises:
        UserError: the folder cannot be read, it is ambiguous, or one file is in two classes or parts.
    """
    found = sorted(_walk(str(folder), "", ()), key=_order)
    pictures = [name for name in found if "/" in name and is_picture(name)]
    sources = _sources(folder, pictures)
    place = {name: _place(name, sources) for name in pictures if not sources or _is_used(name, sources)}
    again = _linked_again(folder, place)
    used = [name for name in place if name not in again]
    if sources:
        used.sort(key=lambda name: list(sources).index(place[name][0]))
    hashed = [(name, folder / name) for name in pictures if name not in again]
    if not hashed:
        raise UserError(
            f"task.data: {folder}: no images in sub-folders; put the images of each class into a sub-folder "
            f"({', '.join(SUFFIXES)})"
        )
    digests = {name: digest_of(folder / name) for name in used}
    changes = [word for name, digest in digests.items() for word in _changes(str(folder / name), digest)]
    changes += ["parts"] if any(source.lower() in _NEW_WORDS for source in sources.values()) else []
    return ImageFolder(
        files=[str(folder / name) for name in used],
        ids=used,
        digests=[digests[name] for name in used],
        names=[place[name][1] for name in used],
        parts=[place[name][0] for name in used] if sources else None,
        sources=sources,
        notes=(
            *_unused(found, place),
            *_without_pictures(found, place, sources),
            *_links(len(again)),
            *_copies(digests, place, sources),
        ),
        fingerprint=read_anew(hash_files(hashed), changes),
    )


@lru_cache(maxsize=1_000_000)
def _changes(path: str, digest: str) -> tuple[str, ...]:
    """As `file_reading_changes`, read once for each content."""
    return file_reading_changes(path)


def _depth(name: str) -> int:
    return name.count("/") + 1


def _order(name: str) -> list[str]:
    return name.split("/")


def _is_used(name: str, sources: dict[str, str]) -> bool:
    """Whether a picture is in a class folder of a part."""
    return _depth(name) > 2 and name.split("/")[0] in sources.values()


def _place(name: str, sources: dict[str, str]) -> tuple[str, str]:
    """A picture's part (empty without parts) and class."""
    first, second, *_ = name.split("/")
    part = next((part for part, source in sources.items() if source == first), "")
    return (part, second) if part else ("", first)


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _walk(folder: str, below: str, above: tuple[str, ...]) -> Iterator[str]:
    """The relative names of files, and of folders (with a `/` at the end), neither hidden nor a system's own."""
    real = os.path.realpath(folder)
    if real in above:
        return  # a link to a folder that contains it
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error}); give yourself access to it") from error
    for entry in entries:
        low = entry.name.lower()
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if low not in _SYSTEM_FOLDERS:
                yield f"{below}{entry.name}/"
                yield from _walk(entry.path, f"{below}{entry.name}/", (*above, real))
        elif low not in _SYSTEM_FILES:
            yield below + entry.name


def _sources(folder: Path, pictures: list[str]) -> dict[str, str]:
    """Part -> its folder's name, if the folder holds parts; empty if it holds classes.

    Raises:
        UserError: it may be either, or two folders stand for one part.
    """
    nested = {name.split("/")[0]: False for name in pictures}
    for name in pictures:
        nested[name.split("/")[0]] |= _depth(name) > 2
    words = {top: part for top in nested if (part := part_of(top)) is not None}
    parts: dict[str, list[str]] = defaultdict(list)
    for top, part in words.items():
        if nested[top]:
            parts[part].append(top)
    if "train" not in parts:
        listed = ", ".join(shown(top) for top in words)
        if len(words) > 1 and (len(words) == len(nested) or "train" in words.values()):
            raise UserError(
                f"task.data: {folder}: its folders {listed} may be parts or classes, and none is a training part with "
                f"class folders; {_ARRANGE}"
            )
        return {}
    for part, tops in parts.items():
        if len(tops) > 1:
            raise UserError(f"task.data: {folder}: {' and '.join(tops)} both mean the {part} part; keep one of them")
    beside = [top for top in nested if top not in words]
    if beside and len(parts) == 1:
        raise UserError(
            f"task.data: {folder}: {parts['train'][0]} may be the training part or a class, since folders with "
            f"pictures are beside it: {_listed(beside)}; {_ARRANGE}, or move what is not to be used elsewhere"
        )
    return {part: parts[part][0] for part in PART_WORDS if part in parts}


def _listed(names: Iterable[str], most: int = 5) -> str:
    known = [shown(name) for name in names]
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def _linked_again(folder: Path, place: dict[str, tuple[str, str]]) -> set[str]:
    """The names of files that are counted under an earlier name in the same class already.

    Raises:
        UserError: one file has names in two classes or two parts, or a file does not exist.
    """
    files: dict[tuple[int, int], list[str]] = defaultdict(list)
    links: dict[str, int] = {}
    for name in place:
        try:
            status = os.stat(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror}); repair or remove it") from error
        files[status.st_dev, status.st_ino].append(name)
        links[name] = status.st_nlink
    again: set[str] = set()
    for names in files.values():
        if len(names) < 2:
            continue
        same: dict[str, list[str]] = defaultdict(list)  # some network file systems give two files the same number
        for name in names:
            same["" if links[name] > 1 else os.path.realpath(folder / name)].append(name)
        for first, *more in same.values():
            for name in more:
                if place[name] != place[first]:
                    what = "classes" if place[name][0] == place[first][0] else "parts"
                    raise UserError(
                        f"task.data: {folder}: {shown(first)} and {shown(name)} are one file (a link) in two {what}; "
                        "remove one of them"
                    )
            again.update(more)
    return again


def _unused(found: list[str], place: dict[str, tuple[str, str]]) -> list[str]:
    """Notes on pictures without a class, and on other files."""
    others = [name for name in found if name not in place and not name.endswith("/")]
    pictures = [name for name in others if is_picture(name)]
    notes = []
    for top, number in Counter(name.split("/")[0] for name in pictures if "/" in name).items():
        why = " outside class folders" if part_of(top) else ""
        notes.append(f"not used: {shown(top)}/ ({counted(number, 'picture')}{why})")
    stray = sum("/" not in name for name in pictures)
    if stray:
        notes.append(f"not used: {counted(stray, 'picture')} beside the folders")
    kinds = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in others if not is_picture(name))
    if kinds:
        listed = ", ".join(f"{number} {shown(kind)}" for kind, number in kinds.most_common(5))
        notes.append(f"not used: {counted(sum(kinds.values()), 'file')} without a picture's suffix ({listed})")
    return notes


def _without_pictures(found: list[str], place: dict[str, tuple[str, str]], sources: dict[str, str]) -> list[str]:
    """Notes on class folders without pictures, and on classes that a part lacks."""
    notes = []
    level = 2 if sources else 1
    folders = {name[:-1] for name in found if name.endswith("/") and name.count("/") == level}
    if sources:
        folders = {name for name in folders if name.split("/")[0] in sources.values()}
    empty = sorted(folders - {"/".join(name.split("/")[:level]) for name in place})
    if empty:
        notes.append(f"no pictures in {_listed(empty)}")
    classes = {name for _, name in place.values()}
    for part in sources:
        absent = sorted(classes - {name for found_in, name in place.values() if found_in == part})
        if absent and part != "train":
            notes.append(f"no {part} pictures of {_listed(absent)}")
    return notes


def _links(number: int) -> list[str]:
    return [f"not counted again: {counted(number, 'link')} to pictures of the same class"] if number else []


def _copies(digests: dict[str, str], place: dict[str, tuple[str, str]], sources: dict[str, str]) -> list[str]:
    """Notes on pictures with the same content, if that may put one picture into two parts."""
    if not sources:
        copies = len(digests) - len(set(digests.values()))
        return [f"{_repeating(copies)} the content of others, perhaps in another part"] if copies else []
    trained = {digest for name, digest in digests.items() if place[name][0] == "train"}
    leaked = Counter(
        place[name][0] for name, digest in digests.items() if place[name][0] != "train" and digest in trained
    )
    return [f"{_repeating(number)} training pictures in the {part} part" for part, number in leaked.items()]


def _repeating(number: int) -> str:
    return f"{counted(number, 'picture')} repeat{'s' if number == 1 else ''}"
