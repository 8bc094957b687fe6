"""Tasks: image folders and Hub image sets, GLUE, answers to prompts, embedded digits; each with split and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensloradist.errors import unknown
from tensloradist.tasks.base import TASKS, LoadedTask, SplitData, Task, require_fingerprint
from tensloradist.tasks.digits import DIGITS
from tensloradist.tasks.images import IMAGE_TASKS
from tensloradist.tasks.language import CAUSAL_LM
from tensloradist.tasks.text import TEXT_TASKS

if TYPE_CHECKING:
    from tensloradist.spec import BackboneSpec, TaskSpec

TASKS.update({entry.name: entry for entry in [DIGITS, *IMAGE_TASKS, *TEXT_TASKS, CAUSAL_LM]})


def task_named(name: str) -> Task:
    """The registered task. Raises UserError for an unknown name."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def load(task: TaskSpec, backbone: BackboneSpec, protocol: str = "sound") -> LoadedTask:
    """The task's data, preprocessed for the backbone and split as the protocol says.

    Raises:
        UserError: whatever is wrong with the data, or a task that does not fit the backbone; data that has changed
            since its fingerprint was taken.
    """
    entry = task_named(task.name)
    if task.fingerprint is not None:
        require_fingerprint(task, entry.fingerprint(task))
    return entry.load(task, backbone, protocol)


__all__ = ["TASKS", "LoadedTask", "SplitData", "Task", "load", "task_named"]
