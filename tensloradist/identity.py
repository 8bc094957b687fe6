"""Identity by content: filling in the fingerprints that a run's id is made of. No torch here.

The id itself is `RunSpec.run_id`. A path, a Hub branch or the machine never enters it; what lies there does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tensloradist.errors import UserError, unknown
from tensloradist.spec import BackboneSpec, RunSpec, TaskSpec

Part = TypeVar("Part", BackboneSpec, TaskSpec)


def resolve(spec: RunSpec) -> RunSpec:
    """The same run with the fingerprints of its backbone and its data filled in.

    Raises:
        UserError: a path does not exist, a Hub name cannot be resolved, or a fingerprint that the spec brings along is
            not that of what lies there.
    """
    return resolve_all([spec])[0]


def resolve_all(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """As `resolve`, for many runs of a plan: every distinct backbone and data set is looked at once."""
    backbones: dict[BackboneSpec, BackboneSpec] = {}
    tasks: dict[TaskSpec, TaskSpec] = {}
    resolved = []
    for spec in specs:
        if spec.backbone not in backbones:
            backbones[spec.backbone] = _checked("backbone", spec.backbone, _backbone_fingerprint(spec.backbone))
        if spec.task not in tasks:
            tasks[spec.task] = _checked("task", spec.task, _task_fingerprint(spec.task))
        update = {"backbone": backbones[spec.backbone], "task": tasks[spec.task]}
        resolved.append(spec.model_copy(update=update))
    return resolved


def _backbone_fingerprint(backbone: BackboneSpec) -> str:
    from tensloradist import backbones

    return backbones.fingerprint(backbone)


def _task_fingerprint(task: TaskSpec) -> str:
    from tensloradist.tasks import TASKS

    if task.name not in TASKS:
        raise unknown("task", task.name, TASKS)
    return TASKS[task.name].fingerprint(task)


def _checked(field: str, part: Part, found: str) -> Part:
    if part.fingerprint not in (None, found):
        raise UserError(
            f"{field}.fingerprint: the spec says {part.fingerprint}, but what lies there has {found}: it "
            "has changed since (leave the fingerprint out to make it another run)"
        )
    return part.model_copy(update={"fingerprint": found})
