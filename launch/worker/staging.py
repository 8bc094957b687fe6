"""A run's data and backbone replaced by copies on the node's own disk, where the profile asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from launch.worker.stage import stage
from tensloradist.errors import UserError


def staged_spec(spec: dict[str, Any], folder: str | None) -> dict[str, Any]:
    """The spec with paths into the node-local folder; unchanged without one. Content, hence identity, is the same.

    Raises:
        UserError: the folder's path is not an absolute one on this node, or its disk is too small.
    """
    if folder is None:
        return spec
    target = Path(os.path.expandvars(folder))
    if "$" in str(target) or not target.is_absolute():
        raise UserError(f"stage: {folder!r} is {str(target)!r} on this node; expected an absolute path")
    fields = (("backbone", "name"), ("backbone", "weights"), ("task", "data"))
    paths = {
        f"{section}.{name}": Path(value)
        for section, name in fields
        if (value := spec[section].get(name)) and Path(value).exists()
    }
    copies = stage(paths, target)
    staged = {**spec, "backbone": dict(spec["backbone"]), "task": dict(spec["task"])}
    for section, name in fields:
        if f"{section}.{name}" in copies:
            staged[section][name] = str(copies[f"{section}.{name}"])
    return staged
