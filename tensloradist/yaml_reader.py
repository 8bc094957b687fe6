"""Read YAML 1.2 with its core schema and `<<` merges; every mistake becomes one sentence with its line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.resolver import BaseResolver

from tensloradist.errors import UserError

_TAG = "tag:yaml.org,2002:"
# The type of a plain word, by its first characters. Everything else is text: yes, 12:00:00, 2026-01-01. YAML 1.2 has no
# digit groups; 1_000 is a number here, because that is what its author means.
_PLAIN = {
    "null": (r"|~|null|Null|NULL", ["", *"~nN"]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?\d+|[-+]?\d{1,3}(_\d{3})+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    "merge": (r"<<", ["<"]),
}


class _Resolver(BaseResolver):
    """The types of plain words, which no `%YAML` directive changes."""

    processing_version = (1, 2)

    def __init__(self, version: Any, loader: Any) -> None:
        super().__init__(loader)


for _name, (_pattern, _first) in _PLAIN.items():
    _Resolver.add_implicit_resolver_base(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z", re.ASCII), _first)


def _integer(text: str) -> int:
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _bool(text: str) -> bool:
    return {"true": True, "false": False}[text]


class _Constructor(SafeConstructor):
    """The values of YAML's core schema, and of no other tag."""

    def get_single_data(self) -> Any:
        node = self.composer.get_single_node()
        if self.scanner.yaml_version not in (None, (1, 2)):
            raise YAMLError("the file declares another YAML version; write it in YAML 1.2 and remove %YAML")
        if node is None:
            return None
        self._check(node, {})
        return self.construct_document(node)

    def _check(self, node: Any, complete: dict[int, bool]) -> None:
        """Raise ConstructorError if a key is given twice, or if an alias is inside its own target.

        Args:
            complete: node -> whether all nodes below it were visited, for each visited node.
        """
        if id(node) in complete:
            if not complete[id(node)]:
                raise ConstructorError(None, None, "an alias is inside its own target", node.start_mark)
            return
        complete[id(node)] = False
        if isinstance(node, SequenceNode):
            for value in node.value:
                self._check(value, complete)
        elif isinstance(node, MappingNode):
            lines: dict[Any, int] = {}
            for key_node, value in node.value:
                key = self._key(key_node)
                if key in lines:
                    again = f"the key {key_node.value!r} is given twice, first in line {lines[key]}"
                    hint = "; merge several mappings with <<: [*one, *other]" if key_node.value == "<<" else ""
                    raise ConstructorError(None, None, again + hint, key_node.start_mark)
                lines[key] = key_node.start_mark.line + 1
                self._check(value, complete)
        complete[id(node)] = True

    def _key(self, node: Any) -> Any:
        if not isinstance(node, ScalarNode):
            raise ConstructorError(None, None, "a key must be a word or a number", node.start_mark)
        return "<<" if node.tag == f"{_TAG}merge" else self.construct_object(node)


def _scalar(read: Any) -> Any:
    def construct(self: _Constructor, node: Any) -> Any:
        text = self.construct_scalar(node)
        try:
            return read(text.lower())
        except (ValueError, KeyError) as error:
            what = str(node.tag).removeprefix(_TAG)
            raise ConstructorError(None, None, f"{text[:40]!r} is not of type {what}", node.start_mark) from error

    return construct


_Constructor.yaml_constructors = {
    f"{_TAG}{name}": SafeConstructor.yaml_constructors[f"{_TAG}{name}"] for name in ("null", "str", "seq", "map")
} | {None: SafeConstructor.construct_undefined}
_Constructor.yaml_multi_constructors = {}
for _name, _read in (("int", _integer), ("float", _float), ("bool", _bool)):
    _Constructor.add_constructor(f"{_TAG}{_name}", _scalar(_read))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises UserError with a mistake's line and column."""
    reader = YAML(typ="safe", pure=True)
    reader.Resolver, reader.Constructor = _Resolver, _Constructor
    try:
        return reader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        begins, context = error.context_mark, error.context
        if context and begins and mark and begins.line != mark.line:
            context += f" that begins in line {begins.line + 1}"
        reason = ", ".join(part for part in (context, error.problem) if part)
        raise UserError(f"{where}{place}: not valid YAML ({reason})") from error
    except RecursionError as error:
        raise UserError(f"{where}: not valid YAML (lists and mappings are nested too deeply)") from error
    except YAMLError as error:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, invalid (with the line), empty, or not a mapping.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: cannot be read (byte 0x{content[error.start]:02x} is not UTF-8); save it as UTF-8"
        ) from error
    data = parse_yaml(text, str(path))
    if data is None:
        raise UserError(f"{path}: the file is empty; it should have fields such as `backbone:` and `task:`")
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of fields, not a {type(data).__name__} ({str(data)[:60]!r})")
    return data
