"""Identity by content: filling in the fingerprints that a run's id is made of. Imports no torch.

The id itself is `RunSpec.run_id`. It depends on contents, never on a path, a Hub branch or the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tensloradist import readings
from tensloradist.errors import UserError
from tensloradist.plugins import all_loaded_code
from tensloradist.spec import BackboneSpec, RunSpec, TaskSpec

Part = TypeVar("Part", BackboneSpec, TaskSpec)


def resolve(spec: RunSpec) -> RunSpec:
    """The same run with the fingerprints of its backbone and its data filled in.

    Raises:
        UserError: a path does not exist, a Hub name cannot be resolved, or a fingerprint in the spec does not match the
            content.
    """
    return resolve_all([spec])[0]


def resolve_all(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """As `resolve`, for many runs of a plan: every distinct backbone and data set is read once."""
    backbones: dict[BackboneSpec, BackboneSpec] = {}
    tasks: dict[TaskSpec, TaskSpec] = {}
    resolved = []
    for spec in specs:
        if spec.backbone not in backbones:
            backbones[spec.backbone] = _checked("backbone", spec.backbone, _read(spec.backbone))
        if spec.task not in tasks:
            tasks[spec.task] = _checked("task", spec.task, _read(spec.task))
        update = {"backbone": backbones[spec.backbone], "task": tasks[spec.task]}
        resolved.append(spec.model_copy(update=update))
    return resolved


def fingerprint_now(part: BackboneSpec | TaskSpec) -> str:
    """The fingerprint of a path's current content, read again only if a file was written since it was last read.

    Without a path, the fingerprint in the spec applies: a Hub name means the planned commit, so that no network is
    needed.

    Raises:
        UserError: as `resolve`.
    """
    if not (paths := local_paths(part)):
        return _fingerprint(part)
    bare = part.model_copy(update={"fingerprint": None})
    return readings.recall(_what(part), paths, lambda: _fingerprint(bare))


def local_paths(part: BackboneSpec | TaskSpec) -> list[Path]:
    """The files and folders that a backbone or a task names."""
    from tensloradist.backbones.folders import is_local

    if isinstance(part, TaskSpec):
        found = part.data is not None and (os.path.isabs(part.data) or os.path.exists(part.data))
        names = [part.data] if found else []
    else:
        names = [part.name if is_local(part.name) else None, part.weights]
    return [Path(name).expanduser() for name in names if name is not None]


def _read(part: BackboneSpec | TaskSpec) -> str:
    return readings.read(_what(part), local_paths(part), lambda: _fingerprint(part))


def _what(part: BackboneSpec | TaskSpec) -> str:
    return f"{type(part).__name__} {part.model_dump_json(exclude={'fingerprint'})} {all_loaded_code()}"


def _fingerprint(part: BackboneSpec | TaskSpec) -> str:
    """The fingerprint of the current content."""
    from tensloradist import backbones
    from tensloradist.tasks import task_named

    return backbones.fingerprint(part) if isinstance(part, BackboneSpec) else task_named(part.name).fingerprint(part)


def _checked(field: str, part: Part, found: str) -> Part:
    if part.fingerprint not in (None, found):
        raise UserError(
            f"{field}.fingerprint: the spec says {part.fingerprint}, but the content has {found}: it has changed since "
            "(leave the fingerprint out to make it another run)"
        )
    return part.model_copy(update={"fingerprint": found})
