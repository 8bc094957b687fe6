"""The local cache of what is decoded, tokenised or pretrained once: content-addressed, and only ever a cache.

An entry is a folder, or one JSON value, named by the hash of what it was made from. It is written under a temporary
name and renamed, so that several processes may make the same entry at once and a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensloradist.files import write_replacing


def cache_root() -> Path:
    """TENSLORADIST_CACHE, or ~/.cache/tensloradist."""
    root = os.environ.get("TENSLORADIST_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "tensloradist"


def entry_path(kind: str, key: str) -> Path:
    return cache_root() / kind / key


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of the entry; `make(folder)` fills it if it is not there yet."""
    final = entry_path(kind, key)
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        make(temporary)
        try:
            os.rename(temporary, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # left over only when another process was first, or make failed
    return final


def cached_json(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """The entry's value, which `make()` gives where there is none; made each time where no cache can be written."""
    path = entry_path(kind, key).with_suffix(".json")
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # not made yet, or damaged
        value = make()
    with suppress(OSError):
        write_replacing(path, json.dumps(value))
    return value
