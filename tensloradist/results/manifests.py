"""Manifests of launched sweeps: named by the hash of their text, so that an edited one is known. No torch here."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.records import DamagedRecord, NewerRecord, UnreadableRecord, read_object, read_record
from tensloradist.results.layout import sweep_folder
from tensloradist.results.schema import MANIFEST_SCHEMA_VERSION, Manifest

_REMEDY = "launch the sweep's file again, which writes it anew"


def manifest_digest(text: str) -> str:
    """What a manifest's file is named by."""
    return sha256(text.encode()).hexdigest()[:16]


def put_manifest(folder: Path, text: str) -> Path:
    """Write a manifest into its sweep's folder, and let `latest` name it.

    Its name says what it contains, so one that is there already is compared, and replaced where it is damaged.

    Raises:
        NewerRecord: a newer version has launched the sweep.
        UserError: a folder lies in the place of one of the two files.
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
    """Raises NewerRecord where the sweep's newest manifest is of a newer version; a damaged one may be replaced."""
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
    try:
        manifest = read_record(path, Manifest, "the manifest", MANIFEST_SCHEMA_VERSION)
    except DamagedRecord as error:
        raise UserError(f"{error}; {_REMEDY}") from error
    if manifest is None:
        raise UserError(f"{path}: there is no such manifest; {_REMEDY}")
    if sha256(path.read_bytes()).hexdigest()[:16] != path.stem:
        raise UserError(
            f"{path}: the manifest was edited after it was written; change the sweep file and launch again instead"
        )
    return manifest


def latest_digest(name: str, root: Path) -> str:
    """The digest of a sweep's newest manifest.

    Raises:
        UserError: the sweep was never launched with this results folder, or `latest` is damaged or not readable.
    """
    path = sweep_folder(root, name) / "latest"
    try:
        text = path.read_bytes().decode("ascii").strip()
    except FileNotFoundError as error:
        known = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
        raise UserError(
            f"sweep {name!r} has not been launched with the results folder {root}; launched there: "
            f"{', '.join(known) or 'none'}. Use --results, or `tensloradist launch`"
        ) from error
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
