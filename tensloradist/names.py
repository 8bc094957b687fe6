"""Names that people gave things, as names of files and anchors, and as text: the one place where they become so.

Two different names never become one, whatever letters they have, also on a file system that takes `A` for `a`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

MOST = 120  # characters; file systems take 255 bytes, and a suffix and a temporary file's marks come behind
_HASH = 10
# As it is, a name may stand: no letters that depend on a file system, none that a shell or a URL would take otherwise.
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9.=_-]*[a-z0-9=_-])?")
_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH}}}")  # for changed names alone
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no files on Windows


def file_name(parts: Sequence[str], read: Callable[[str], Sequence[str] | None] | None = None) -> str:
    """One name for a file or an anchor, of ASCII letters, at most `MOST`, without a suffix.

    It is the parts joined by underscores where they can be told from that again; else as much of them as can stand in
    a name, and a hash.

    Args:
        parts: what it is the name of.
        read: the parts of a name that stays as it is, or None; by default, it is one part.
    """
    joined = "_".join(part.replace(" ", "_") for part in parts)
    is_plain = _PLAIN.fullmatch(joined) and not _HASHED.fullmatch(joined) and not _DEVICE.fullmatch(joined)
    if is_plain and len(joined) <= MOST and list((read or _one)(joined) or ()) == list(parts):
        return joined
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    shown = re.sub(r"[^A-Za-z0-9.=-]+", "_", joined)[: MOST - _HASH - 1].strip("_.-")
    return f"{shown or 'name'}-{digest}"


def _one(name: str) -> list[str]:
    return [name]


def printable(text: str) -> str:
    """A name as a text that every encoding, terminal and table takes: escapes for what has no picture on one line.

    Those are control characters, line ends, and the bytes of file names that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


def encodable(text: str) -> str:
    """A text that can be written as UTF-8: escapes for the bytes of file names that are not."""
    return text.encode("utf-8", "backslashreplace").decode()
