"""Fingerprints that are remembered between commands, for commands that only show results.

Planning and training always read the content. `status` and the tables must answer at once even for large data, so they
read it again only if a file was written, replaced, added or removed since, or if this code has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tensloradist.caching import cached_json
from tensloradist.fingerprint import hash_bytes, statuses
from tensloradist.sources import sources_hash

# Seconds after the last write before a reading is remembered, because clocks of file servers differ, and two writes
# within one tick leave the same times.
_SETTLED = 10.0


def read(what: str, paths: Iterable[Path], look: Callable[[], str]) -> str:
    """The fingerprint that `look()` reads from an input, remembered for `recall`.

    Args:
        what: everything else that the fingerprint depends on.
        paths: the files and folders read; none: nothing is remembered.
    """
    key = _key(what, paths)
    fingerprint = look()
    if key is not None:
        cached_json("fingerprints", key, lambda: fingerprint)
    return fingerprint


def recall(what: str, paths: Iterable[Path], look: Callable[[], str]) -> str:
    """As `read`, but without calling `look` if nothing was written since the last reading."""
    key = _key(what, paths)
    return look() if key is None else str(cached_json("fingerprints", key, look))


def _key(what: str, paths: Iterable[Path]) -> str | None:
    """A hash of the status of every file, including the time of the status change, which users cannot set."""
    now = time.time()
    try:
        files = [(str(path), *status) for path in paths for status in statuses(path)]
    except OSError:
        return None  # `look` reports what is unreadable
    if not files or any(now - changed < _SETTLED for *_, changed in files):
        return None
    return hash_bytes(what, sources_hash(), *(repr(each) for each in sorted(files)))
