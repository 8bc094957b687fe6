"""The function that turns a sweep file into a manifest: `launch` registers it, since the library cannot import it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.results.schema import Manifest

_planners: list[Callable[[Path], Manifest]] = []


def plan_with(planner: Callable[[Path], Manifest]) -> None:
    """Register the function that turns a sweep file into a manifest; it replaces an earlier one."""
    _planners[:] = [planner]


def planned(path: Path) -> Manifest:
    """The manifest that a sweep file would be launched with now. Raises UserError if no function is registered."""
    if not _planners:
        raise UserError("no planner is registered here")
    return _planners[0](path)
