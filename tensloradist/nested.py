"""Nested mappings by the dotted names of their values, as users write them: `optimizer.learning_rate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def dotted(fields: Mapping[str, Any], keep_empty: bool = False) -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names: ('optimizer.learning_rate', 0.001).

    Args:
        keep_empty: whether an empty mapping is a value; otherwise it is left out.
    """
    for name, value in fields.items():
        if isinstance(value, Mapping) and (value or not keep_empty):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in dotted(value, keep_empty))
        else:
            yield name, value
