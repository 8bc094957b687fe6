"""Fingerprints that are remembered between commands, for those that only show what is there.

Whoever plans or trains reads the content. `status` and the tables must answer at once, whatever the size of the data,
so they read it again only where a file was written, replaced, added or removed since, or where this code has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tensloradist.caching import cached_json
from tensloradist.fingerprint import hash_bytes, statuses
from tensloradist.sources import sources_hash

# Seconds since the last write before a reading is remembered: clocks of file servers differ, and two writes within one
# tick leave the same times.
_SETTLED = 10.0


def read(what: str, paths: Iterable[Path], look: Callable[[], str]) -> str:
    """The fingerprint that `look()` reads of an input, noted for `recall`.

    Args:
        what: all else that the fingerprint depends on.
        paths: the files and folders that are read; none: nothing is remembered.
    """
    key = _key(what, paths)
    found = look()
    if key is not None:
        cached_json("fingerprints", key, lambda: found)
    return found


def recall(what: str, paths: Iterable[Path], look: Callable[[], str]) -> str:
    """As `read`, without looking where nothing was written since the last look."""
    key = _key(what, paths)
    return look() if key is None else str(cached_json("fingerprints", key, look))


def _key(what: str, paths: Iterable[Path]) -> str | None:
    """A hash of the status of every file: as `digest_of`, by the time of the status change, which nobody can set."""
    now = time.time()
    try:
        found = [(str(path), *status) for path in paths for status in statuses(path)]
    except OSError:
        return None  # the look itself says what cannot be read
    if not found or any(now - changed < _SETTLED for *_, changed in found):
        return None
    return hash_bytes(what, sources_hash(), *(repr(each) for each in sorted(found)))
