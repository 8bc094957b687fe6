"""How a sweep file becomes a manifest: `launch` registers it here, since the library itself imports none of that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist.errors import UserError

if TYPE_CHECKING:
    from tensloradist.results.schema import Manifest

_planners: list[Callable[[Path], Manifest]] = []


def plan_with(planner: Callable[[Path], Manifest]) -> None:
    """Say how a sweep file becomes a manifest; the last word counts."""
    _planners[:] = [planner]


def planned(path: Path) -> Manifest:
    """What the sweep file would be launched as now. Raises UserError where nothing is registered."""
    if not _planners:
        raise UserError("nothing here can plan it")
    return _planners[0](path)
