"""Making a sweep's backbones and data available offline."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from tensloradist import backbones
from tensloradist.config import expand_paths, read_sweep
from tensloradist.identity import resolve
from tensloradist.plugins import load_plugins
from tensloradist.shipped import find_shipped
from tensloradist.spec import RunSpec
from tensloradist.tasks import task_named
from tensloradist.validation import validate


def fetch_sweep(source: str) -> Iterator[str]:
    """Download what a sweep or run needs, at pinned revisions, and decode or tokenise it; yields a line on each part.

    Args:
        source: a sweep or run file, or the name of a shipped sweep.

    Raises:
        UserError: a mistake in the file, or something that cannot be downloaded.
    """
    path = find_shipped("sweeps", source)
    data = expand_paths(read_sweep(path), path.absolute().parent)
    load_plugins(data.get("plugins", []))
    parts = product(
        _combinations(data.get("backbone", {})),
        _combinations(data.get("task", {})),
        _values(data.get("protocol", "sound")),
    )
    for backbone, task, protocol in parts:
        fields = {"backbone": backbone, "task": task, "protocol": protocol, "adapter": {"method": "lora"}}
        spec = resolve(validate(RunSpec, fields, str(path)))
        yield from backbones.fetch(spec.backbone)
        yield from task_named(spec.task.name).fetch(spec.task, spec.backbone, spec.protocol)


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _combinations(section: Any) -> list[dict[str, Any]]:
    """Every combination of the values of a section's fields, for each part of a section that is a list."""
    return [
        dict(zip(part, values, strict=True))
        for part in _values(section)
        for values in product(*(_values(value) for value in part.values()))
    ]
