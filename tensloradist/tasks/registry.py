"""The registry of tasks, and what a specification must know of a task before its data is read. No torch, no numpy.

Importing this module imports the package, which registers the tasks that come with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["image", "text"]
Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a task is, independently of any data.

    Attributes:
        name: key in `TASKS`.
        kind: what the backbone must read.
        has_head: whether the backbone gets a head of its own for the task; a language model does not.
        official: what the official scripts set for this task: the sections `task` and `optimizer` of a RunSpec, field
            -> value. They are defaults under protocol `official`.
    """

    name: str
    kind: Kind
    has_head: bool = True
    official: Settings = field(default_factory=dict)


TASKS: dict[str, Any] = {}  # name -> `base.Task`, which is a Declaration with what reads the data
