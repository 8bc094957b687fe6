"""Find shipped sweeps and cluster profiles by name, in a checkout and in an installed wheel."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from tensloradist.errors import UserError, unknown


def shipped_folder(kind: str) -> Path:
    """The folder of shipped files: 'sweeps', or 'slurm/profiles'."""
    package, *rest = kind.split("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the shipped {kind} are not installed; reinstall tensloradist")
    return Path(next(iter(spec.submodule_search_locations)), *rest)


def shipped_names(kind: str) -> list[str]:
    folder = shipped_folder(kind)
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_shipped(kind: str, source: str) -> Path:
    """The file with this path, or the shipped one with this name (without .yaml).

    Raises:
        UserError: neither exists, or the path is not a file; lists the shipped names.
    """
    path = Path(source)
    if os.path.isfile(source):  # Path.is_file raises for a name that is too long
        return path
    shipped = shipped_folder(kind) / f"{source}.yaml"
    if os.path.isfile(shipped):
        return shipped
    if os.path.exists(source):
        what = "a folder" if os.path.isdir(source) else "not a regular file"
        raise UserError(
            f"{source}: {what}; give a file, or the name of a shipped one: {', '.join(shipped_names(kind))}"
        )
    if path.suffix in (".yaml", ".yml") or ("/" in source and source not in shipped_names(kind)):
        raise UserError(f"{source}: no such file; the shipped ones are {', '.join(shipped_names(kind))}")
    raise unknown(f"{kind.split('/')[-1].rstrip('s')}", source, shipped_names(kind))
