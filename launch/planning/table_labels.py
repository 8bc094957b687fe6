"""What the tables call the rows, backbones and tasks of a sweep."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from tensloradist.factorizations import DEFAULT_FACTORIZATION
from tensloradist.names import printable
from tensloradist.spec import BackboneSpec, TaskSpec

Part = TypeVar("Part", BackboneSpec, TaskSpec)
WHERE_FIELDS = ("name", "data", "weights")  # where something lies; a label has what the short name lacks of them


def row_label(method: str, chosen: Mapping[str, Any], varied: Sequence[str]) -> str:
    """'lora', 'fact_tt', or 'qkv_depth tucker'; then the options that set this variant apart from the method."""
    factorization = chosen.get("factorization") or DEFAULT_FACTORIZATION
    name = f"{chosen['grouping']} {factorization}" if method == "tenslora" else method
    named = [key for key in dict.fromkeys(varied) if key not in ("grouping", "factorization")]
    # A head layout's value says what it is: 'att tucker official'.
    extra = [str(chosen[key]) if key == "head_layout" else f"{key}={_short(chosen[key])}" for key in named]
    return printable(" ".join([name, *extra]))


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def part_labels(parts: Mapping[Part, Sequence[str]], short: Callable[[Part], str]) -> dict[Part, str]:
    """'digits [train_examples=200]': what the tables call each backbone, or each task, of a sweep.

    The short name is followed by the values of its axes, and of the fields that differ between parts of the same short
    name, unless they have their defaults: 'digits' stays plain beside 'digits [train_examples=200]'.

    Args:
        parts: the backbones or tasks, with the names of the fields that are axes.
    """
    alike: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        alike[short(part)].append(part)
    labels = {}
    for name, group in alike.items():
        fields = type(group[0]).model_fields
        differing = [field for field in fields if len({getattr(part, field) for part in group}) > 1]
        for part in group:
            shown = [field for field in parts[part] if field not in WHERE_FIELDS]
            shown += [f for f in differing if f not in shown and getattr(part, f) != fields[f].default]
            extra = ", ".join(f"{field}={_shown(field, part, group)}" for field in shown)
            labels[part] = printable(f"{name} [{extra}]" if extra else name)
    return labels


def _shown(field: str, part: Part, group: Sequence[Part]) -> str:
    """A field's value; of a path, the parts that differ between the paths of the group."""
    if field not in WHERE_FIELDS:
        return str(getattr(part, field))
    own, *_ = places = [PurePath(getattr(p, field)).parts for p in (part, *group) if getattr(p, field) is not None]
    if len(set(places)) == 1:
        return own[-1]
    before = _equal_at_first(places)
    after = _equal_at_first([place[before:][::-1] for place in places])
    return "/".join(own[before : len(own) - after]) or "."


def _equal_at_first(places: Iterable[Sequence[str]]) -> int:
    """The number of leading parts that all paths share."""
    return len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False))))
