"""Replaces a run's data and backbone by copies on the node's own disk, if the profile asks for it."""

from __future__ import annotations

import os
from pathlib import Path

from launch.worker.stage import stage
from tensloradist.errors import UserError
from tensloradist.spec import RunSpec


def staged_spec(spec: RunSpec, folder: str | None) -> RunSpec:
    """The spec with paths into the node-local folder; unchanged without one. Its content, hence its id, is the same.

    Raises:
        UserError: the folder's path is not an absolute one on this node, or its disk is too small.
    """
    if folder is None:
        return spec
    target = Path(os.path.expandvars(folder))
    if "$" in str(target) or not target.is_absolute():
        raise UserError(f"stage: {folder!r} is {str(target)!r} on this node; expected an absolute path")
    places = {"name": spec.backbone.name, "weights": spec.backbone.weights, "data": spec.task.data}
    paths = {field: Path(place) for field, place in places.items() if place and Path(place).exists()}
    copies = {field: str(copy) for field, copy in stage(paths, target).items()}
    data = {"data": copies.pop("data")} if "data" in copies else {}
    return spec.model_copy(
        update={"backbone": spec.backbone.model_copy(update=copies), "task": spec.task.model_copy(update=data)}
    )
