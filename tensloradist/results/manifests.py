"""Manifests of launched sweeps: named by the hash of their text, so that edits are detected. Imports no torch."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from tensloradist.errors import UserError, unknown
from tensloradist.files import write_replacing
from tensloradist.records import DamagedRecord, NewerRecord, UnreadableRecord, read_object, read_record
from tensloradist.results.layout import sweep_folder
from tensloradist.results.schema import MANIFEST_SCHEMA_VERSION, Manifest

_REMEDY = "launch the sweep's file again, which writes it anew"
_MOST_READ = 4
_read: dict[str, Manifest] = {}  # SHA-256 -> manifest: a command reads the same large file several times


def manifest_digest(text: str) -> str:
    """The name of a manifest's file: the beginning of its text's SHA-256."""
    return sha256(text.encode()).hexdigest()[:16]


def put_manifest(folder: Path, text: str) -> Path:
    """Write a manifest into its sweep's folder, and its name into `latest`.

    A file of this name is compared first, and replaced if it is damaged.

    Raises:
        NewerRecord: a newer version has launched the sweep.
        UserError: there is a folder in place of one of the two files.
    """
    _refuse_newer(folder)
    digest = manifest_digest(text)
    path = folder / f"{digest}.json"
    for target in (path, folder / "latest"):
        if target.is_dir():
            raise UserError(f"{target}: a folder lies in the place of this file; move it away and launch again")
    if not path.exists() or path.read_bytes() != text.encode():
        write_replacing(path, text)
    write_replacing(folder / "latest", digest + "\n")
    return path


def _refuse_newer(folder: Path) -> None:
    """Raises NewerRecord if a newer version wrote the sweep's newest manifest; a damaged one may be replaced."""
    try:
        newest = (folder / "latest").read_bytes().decode("ascii").strip()
        read_object(folder / f"{newest}.json", "the manifest", MANIFEST_SCHEMA_VERSION)
    except NewerRecord:
        raise
    except (OSError, ValueError, UserError):
        return


def read_manifest(path: Path) -> Manifest:
    """A manifest as it was written.

    Raises:
        UserError: absent, damaged, of a newer version, or edited since (its name is the hash of its text).
    """
    digest = _digest_of(path)
    if digest in _read and digest[:16] == path.stem:
        return _read[digest]
    try:
        with _without_garbage_collection():
            manifest = read_record(path, Manifest, "the manifest", MANIFEST_SCHEMA_VERSION)
    except DamagedRecord as error:
        raise UserError(f"{error}; {_REMEDY}") from error
    if manifest is None:
        raise UserError(f"{path}: there is no such manifest; {_REMEDY}")
    if digest is None or digest[:16] != path.stem:
        raise UserError(
            f"{path}: the manifest was edited after it was written; change the sweep file and launch again instead"
        )
    if len(_read) >= _MOST_READ:
        _read.clear()
    _read[digest] = manifest
    return manifest


def _digest_of(path: Path) -> str | None:
    """The SHA-256 of a file; None if it cannot be read."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """The objects of a large manifest are all kept: looking for garbage among them takes longer than to read it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def not_launched(name: str, root: Path) -> UserError:
    """The error for a sweep that was never launched with this results folder; lists those that were."""
    launched = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
    return UserError(
        f"{unknown('launched sweep', name, launched)} It has not been launched with the results folder {root}; use "
        "--results, or `tensloradist launch`"
    )


def latest_digest(name: str, root: Path) -> str:
    """The digest of a sweep's newest manifest.

    Raises:
        UserError: the sweep was never launched with this results folder, or `latest` is damaged or not readable.
    """
    path = sweep_folder(root, name) / "latest"
    try:
        text = path.read_bytes().decode("ascii").strip()
    except FileNotFoundError as error:
        raise not_launched(name, root) from error
    except (UnicodeDecodeError, IsADirectoryError):
        text = ""
    except OSError as error:
        raise UnreadableRecord(path, f"cannot be read ({error.strerror or error})") from error
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise UserError(f"{path}: does not name a manifest, so it is damaged; {_REMEDY}")
    return text


def latest_manifest(name: str, root: Path) -> Manifest:
    """The newest manifest of a launched sweep.

    Raises:
        UserError: as `latest_digest` and `read_manifest`.
    """
    return read_manifest(sweep_folder(root, name) / f"{latest_digest(name, root)}.json")
