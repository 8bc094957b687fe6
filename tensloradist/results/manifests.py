"""Manifests of launched sweeps: named by the hash of their text, so that an edited one is known. No torch here."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from tensloradist.errors import UserError
from tensloradist.results.layout import sweep_folder
from tensloradist.results.schema import Manifest


def manifest_digest(text: str) -> str:
    """What a manifest's file is named by."""
    return sha256(text.encode()).hexdigest()[:16]


def read_manifest(path: Path) -> Manifest:
    """A manifest as it was written.

    Raises:
        UserError: unreadable, of another version, or edited since (its name is the hash of its text).
    """
    try:
        text = path.read_text(encoding="utf-8")
        manifest = Manifest.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{path}: cannot be read as a manifest ({str(error).splitlines()[0]})") from error
    if manifest_digest(text) != path.stem:
        raise UserError(
            f"{path}: the manifest was edited after it was written; change the sweep file and launch again instead"
        )
    return manifest


def latest_manifest(name: str, root: Path) -> Manifest:
    """The newest manifest of a launched sweep.

    Raises:
        UserError: never launched with this results folder, or as `read_manifest`.
    """
    folder = sweep_folder(root, name)
    if not (folder / "latest").is_file():
        known = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
        raise UserError(
            f"sweep {name!r} has not been launched with the results folder {root}; launched there: "
            f"{', '.join(known) or 'none'}. Use --results, or `tensloradist launch`"
        )
    return read_manifest(folder / f"{(folder / 'latest').read_text().strip()}.json")
