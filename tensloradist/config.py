"""Reading specifications: sweeps and runs in YAML, dotted overrides, and paths.

`load_run_spec` reads one run; a sweep uses the same pieces.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensloradist.errors import UserError
from tensloradist.names import encodable
from tensloradist.plugins import load_plugins
from tensloradist.spec import RunSpec
from tensloradist.validation import is_module_name, validate
from tensloradist.yaml_reader import parse_yaml, read_yaml


def read_sweep(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a sweep file; `tasks` and `backbones` are other spellings of `task` and `backbone`.

    Raises:
        UserError: as `read_yaml`, or both spellings in one file.
    """
    data = read_yaml(path)
    for name in ("task", "backbone"):
        if f"{name}s" in data:
            if name in data:
                raise UserError(f"{path}: both {name!r} and '{name}s' are given; write one list")
            data[name] = data.pop(f"{name}s")
    return data


def expand_path(text: str, base: Path, where: str) -> str:
    """`$VAR`, `${VAR}` and `~` replaced, and a relative path that exists below `base` made absolute.

    Text that is neither absolute, nor begins with `./` or `../`, nor exists below `base` is not changed, since it may
    be a name on the Hub.

    Raises:
        UserError: a variable is not set, or no file system can look the path up.
    """

    def value_of(match: re.Match[str]) -> str:
        variable = match.group(1) or match.group(2)
        if variable not in os.environ:
            raise UserError(
                f"{where}: {text!r} uses ${variable}, which is not set; set the environment variable or write the path"
            )
        return os.environ[variable]

    expanded = os.path.expanduser(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value_of, text))
    candidate = Path(os.path.normpath(base.absolute() / expanded))
    if encodable(str(candidate)) != str(candidate):  # no record could hold it
        raise UserError(
            f"{where}: {encodable(str(candidate))}: the path is not UTF-8; rename it, or link to it by a name in UTF-8"
        )
    is_path = os.path.isabs(expanded) or expanded.startswith(("./", "../")) or expanded in (".", "..")
    return str(candidate) if is_path or _exists(candidate, f"{where}: {text!r}") else expanded


def _exists(path: Path, what: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (
        OSError,
        ValueError,
    ) as error:  # such as a name that is too long, or has a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} cannot be looked up as a path ({reason}); correct it, or get access to it") from error
    return True


# The fields of a spec or a sweep that may hold a path.
PATH_FIELDS = ("backbone.name", "backbone.weights", "task.data", "compute.deepspeed_config")


def expand_paths(data: dict[str, Any], base: Path, only: Iterable[str] = PATH_FIELDS) -> dict[str, Any]:
    """A copy of a run's or a sweep's mapping with its path fields expanded; lists of values and of parts, too."""
    data = copy.deepcopy(data)
    for field in only:
        section, key = field.split(".")
        parts = data.get(section)
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, dict) and key in part:
                values = part[key]
                if isinstance(values, list):
                    part[key] = [_expanded(value, part, base, field) for value in values]
                else:
                    part[key] = _expanded(values, part, base, field)
    return data


def _expanded(value: Any, part: dict[str, Any], base: Path, field: str) -> Any:
    if not isinstance(value, str):
        return value
    # A folder that happens to be called `digits_vit`, or like an architecture of timm, does not take its place.
    bare_name = field == "backbone.name" and "/" not in value and "$" not in value and not value.startswith("~")
    if bare_name and not (
        part.get("source", "transformers") in ("transformers", "timm") and os.path.isfile(base / value / "config.json")
    ):
        return value
    return expand_path(value, base, field)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the mapping with dotted overrides such as `optimizer.learning_rate=1e-3`; values are YAML.

    Raises:
        UserError: an override without `=` or field, a value that is not YAML, or a field below one without fields.
    """
    result = copy.deepcopy(dict(data))
    for override in overrides:
        field, equals, text = override.partition("=")
        keys = field.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"{override!r}: an override is written field=value, such as optimizer.learning_rate=1e-3")
        section = result
        for depth, key in enumerate(keys[:-1]):
            if section.get(key) is None:
                section[key] = {}
            if not isinstance(section[key], dict):
                above = ".".join(keys[: depth + 1])
                raise UserError(
                    f"{override!r}: {above} is {section[key]!r}, which has no fields; override {above} as a whole"
                )
            section = section[key]
        section[keys[-1]] = parse_yaml(text, f"override {field!r}")
    return result


def load_run_spec(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunSpec:
    """One run from a YAML file or a mapping, with dotted overrides.

    Relative paths in a file are relative to it; in overrides and mappings, to the working directory. Its plugins are
    loaded first, because their factorisations and tasks have defaults of their own.

    Raises:
        UserError: anything wrong with it, by field.
    """
    data: dict[str, Any]
    if isinstance(source, Mapping):
        where, base, data = "run", Path.cwd(), copy.deepcopy(dict(source))
    else:
        where, base, data = str(source), Path(source).absolute().parent, read_yaml(source)
    if "methods" in data or "conditions" in data:
        raise UserError(f"{where}: this is a sweep, with methods and conditions; use `tensloradist launch`")
    data = apply_overrides(expand_paths(data, base), overrides)
    fields = [override.partition("=")[0].strip() for override in overrides]
    data = expand_paths(
        data, Path.cwd(), [field for field in PATH_FIELDS if field in fields or field.split(".")[0] in fields]
    )
    plugins = data.get("plugins")
    if isinstance(plugins, list) and all(map(is_module_name, plugins)):  # others are refused with the other fields
        load_plugins(plugins)
    return validate(RunSpec, data, where)
