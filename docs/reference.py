"""Writes reference.md beside this file: every key of run files, sweep files and cluster profiles, from their models.

Type `python docs/reference.py` after a change of the models; a test compares the file with what this writes.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from launch.planning.sweep_file import ConditionEntry, Isoparameter, SweepFile
from launch.slurm.profile import Options, Profile
from tensloradist.compute import ComputeSpec
from tensloradist.spec import AdapterSpec, BackboneSpec, OptimizerSpec, RunSpec, TaskSpec

HEAD = """# Reference: every key

Written by `python docs/reference.py` from the models that read these files; do not edit it by hand. A key without a
default is required. What a command takes is said by `tensloradist COMMAND --help`.
"""
PARTS: tuple[tuple[str, str, tuple[tuple[str, type[BaseModel]], ...]], ...] = (
    (
        "Run files",
        "Read by `tensloradist run FILE`; `field.key=value` after the file's name overrides a key.",
        (
            ("", RunSpec),
            ("backbone", BackboneSpec),
            ("task", TaskSpec),
            ("adapter", AdapterSpec),
            ("optimizer", OptimizerSpec),
            ("compute", ComputeSpec),
        ),
    ),
    (
        "Sweep files",
        "Read by `tensloradist plan FILE` and `tensloradist launch FILE`. The sections have a run file's keys.",
        (("", SweepFile), ("conditions", ConditionEntry), ("isoparameter", Isoparameter)),
    ),
    (
        "Cluster profiles",
        "Read from `--profile FILE`. What is given outside of `options` holds for every option set.",
        (("", Profile), ("options", Options)),
    ),
)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for part in PARTS for line in _part(*part))])


def _part(title: str, about: str, models: tuple[tuple[str, type[BaseModel]], ...]) -> Iterator[str]:
    yield f"## {title}\n"
    yield about + "\n"
    for name, model in models:
        if name:
            yield f"### `{name}`\n"
            yield inspect.cleandoc(model.__doc__ or "") + "\n"
        yield "| key | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from (f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in rows(model))
        yield ""


def rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of each field.

    Raises:
        ValueError: a field without a description.
    """
    schema = model.model_json_schema()
    for key, field in schema["properties"].items():
        if not field.get("description"):
            raise ValueError(f"{model.__name__}.{key} has no description")
        default = "" if key in schema.get("required", ()) else _default(model, key)
        yield key, _type(field, schema.get("$defs", {})), default, field["description"].replace("|", "\\|")


def _default(model: type[BaseModel], key: str) -> str:
    value = model.model_fields[key].get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "each key's own"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in field:
        return ", or ".join(dict.fromkeys(_type(one, definitions) for one in field["anyOf"]))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return _type(definitions[name], definitions) if "enum" in definitions[name] else "a mapping"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type")
    if kind == "array":
        return f"a list of: {_type(field['items'], definitions)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"a mapping to: {_type(inner, definitions)}" if isinstance(inner, dict) and inner else "a mapping"
    words = {"string": "text", "integer": "integer", "number": "number", "boolean": "true, false", "null": "null"}
    return words.get(str(kind), "any value") + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    found = [f"{sign} {field[name]:g}" for name, sign in signs if name in field]
    return f" {' and '.join(found)}" if found else ""


if __name__ == "__main__":
    path = Path(__file__).with_suffix(".md")
    path.write_text(page(), encoding="utf-8")
    print(f"Written: {path}")
