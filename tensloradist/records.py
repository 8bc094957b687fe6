"""Read JSON records, distinguishing valid ones from those of a newer version, damaged ones, and unreadable files.

Every JSON file of a results folder is read here, so that all commands agree on its state. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tensloradist.errors import UserError

T = TypeVar("T")
FORM = ConfigDict(extra="forbid")
"""The `__pydantic_config__` of a dataclass that is read as a record."""
ProcessNumber = Annotated[int, Field(gt=0, lt=2**31)]
"""A process id. Unix gives 0 and negative numbers another meaning: groups of processes."""
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # made once, since that takes longer than reading a record


class UnreadableRecord(UserError):
    """A record that this version cannot use. An error of exactly this class: the file system refuses to read it.

    Attributes:
        path: the record's file.
    """

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path


class DamagedRecord(UnreadableRecord):
    """A record that is cut off, garbled, or not in the form in which it was written."""

    def __init__(self, path: Path, what: str, reason: str) -> None:
        super().__init__(path, f"{what} is damaged ({reason})")


class NewerRecord(UnreadableRecord):
    """A record that a newer version has written, and that must not be changed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, f"made by a newer version of tensloradist ({reason}); update tensloradist")


def read_json(path: Path, what: str) -> Any:
    """The JSON value in a file; None if there is no file.

    Args:
        what: the kind of record, such as 'the result', for messages.

    Raises:
        DamagedRecord: the content is not JSON, or a folder is in the file's place.
        UnreadableRecord: the file system refuses.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise DamagedRecord(path, what, f"not a file: {error.strerror}") from error
    except OSError as error:
        raise UnreadableRecord(path, f"{what} cannot be read ({error.strerror or error})") from error
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}" if content else "the file is empty"
        raise DamagedRecord(path, what, reason) from error
    if data is None:
        raise DamagedRecord(path, what, "null")
    return data


def read_object(
    path: Path, what: str, version: int | None = None, key: str = "schema_version"
) -> dict[str, Any] | None:
    """The JSON object in a file, if this code knows its version; None if there is no file.

    Args:
        version: the one that this code writes; None: records of this kind have none unless a newer version wrote them.
        key: the field with the version.

    Raises:
        UnreadableRecord: as `read_json`; NewerRecord for a higher version.
    """
    data = read_json(path, what)
    if data is None:
        return None
    if not isinstance(data, dict):
        raise DamagedRecord(path, what, f"expected a JSON object, not {type(data).__name__}")
    found = data.get(key)
    if isinstance(found, int) and not isinstance(found, bool) and found > (version or 1):
        raise NewerRecord(path, f"{key} {found}; this version reads {version or 1}")
    if version is not None and found != version:
        raise DamagedRecord(path, what, f"{key} {found!r}; this version reads {version}")
    return data


def read_record(
    path: Path, form: type[T], what: str, version: int | None = None, key: str = "schema_version"
) -> T | None:
    """The validated record in a file; None if there is no file. Arguments and errors are those of `read_object`.

    If a record's only fault is an unknown field, a newer version has written it.

    Args:
        form: the record's pydantic model or dataclass.
    """
    data = read_object(path, what, version, key)
    if data is None:
        return None
    try:
        if form not in _ADAPTERS:
            _ADAPTERS[form] = TypeAdapter(form)
        valid: T = _ADAPTERS[form].validate_python(data)
        return valid
    except ValidationError as error:
        faults = error.errors(include_url=False)
        first = faults[0]
        field = ".".join(str(part) for part in first["loc"])
        if all(fault["type"] in ("extra_forbidden", "unexpected_keyword_argument") for fault in faults):
            raise NewerRecord(path, f"it has the field {field}, which this version does not know") from error
        raise DamagedRecord(path, what, f"{field}: {first['msg']}") from error
