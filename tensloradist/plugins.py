"""Plugins: modules outside this project that add factorisations, tasks, metrics, backbone families or sources.

A plugin is an importable module that, on import, writes entries into the registries: `FACTORIZATIONS`
(tensloradist.factorizations), `TASKS` (tensloradist.tasks), `METRICS` (tensloradist.metrics), `FAMILIES` and `SOURCES`
(tensloradist.backbones).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from tensloradist.errors import UserError
from tensloradist.sources import module_hash, search_here

_LOADED: dict[str, str] = {}  # plugin -> the hash of its code when this process imported it


def load_plugins(names: Iterable[str]) -> None:
    """Import each module once. Raises UserError if one is not found; errors inside a plugin are not changed.

    The working directory is searched, too, as for a script, so that a plugin beside a sweep needs no installation.
    """
    for name in names:
        search_here()
        _LOADED[name] = _LOADED.get(name) or module_hash(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not (name + ".").startswith(error.name + "."):
                raise
            raise UserError(
                f"plugins: module {name!r} cannot be imported ({error}); install it or run in its folder"
            ) from error


def all_loaded_code() -> list[tuple[str, str]]:
    """(plugin, hash of its code) of every plugin that this process has imported."""
    return sorted(_LOADED.items())


def loaded_code(names: Iterable[str]) -> dict[str, str]:
    """plugin -> the hash of its code as imported by this process, even if its files have changed since."""
    return {name: _LOADED.get(name) or module_hash(name) for name in names}
