"""Nested mappings by dotted names: `{"a": {"b": 1}}` is `{"a.b": 1}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flattened(data: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value, in the mapping's order; an empty mapping has no names."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": found for inner, found in flattened(value).items()}
        else:
            flat[key] = value
    return flat
