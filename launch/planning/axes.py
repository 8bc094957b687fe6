"""The axes of a sweep file: fields given as a list, whose values are combined with those of all other axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from tensloradist.errors import UserError

Fields = dict[str, Any]
LIST_FIELDS = {"projections", "targets", "mode_order", "log_with", "plugins"}  # an axis as a list of lists alone


def axes(fields: Mapping[str, Any], prefix: str) -> Iterator[Fields]:
    """Every combination of the values of a section: a list is an axis, unless the field is a list by nature.

    Args:
        prefix: comes before the name of a field in messages: "sweep.yaml: optimizer.".

    Raises:
        UserError: an empty axis.
    """
    values: list[list[Any]] = []
    for name, value in fields.items():
        if not is_axis(name, value):
            values.append(list(axes(value, f"{prefix}{name}.")) if isinstance(value, Mapping) else [value])
        elif value:
            values.append(value)
        else:
            raise UserError(f"{prefix}{name}: an empty list; give at least one value")
    for combination in itertools.product(*values):
        yield dict(zip(fields, combination, strict=True))


def is_axis(name: str, value: Any) -> bool:
    return isinstance(value, list) and (name not in LIST_FIELDS or any(isinstance(part, list) for part in value))


def sections(section: Fields | list[Fields], prefix: str) -> Iterator[tuple[Fields, tuple[str, ...]]]:
    """Every backbone or task of a section, and which of its fields are axes."""
    for part in section if isinstance(section, list) else [section]:
        varied = tuple(name for name, value in part.items() if is_axis(name, value))
        for chosen in axes(part, prefix):
            yield chosen, varied
