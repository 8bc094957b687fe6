"""Turn user-given names into file names, anchors and printable text.

Different names never become equal, whatever characters they have, even on a file system that ignores case.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

MOST = 120  # characters; file systems allow 255 bytes, which must also hold a suffix and a temporary file's marks
_HASH = 10
# Names that need no change: without characters that file systems, shells or URLs treat specially.
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9.=_-]*[a-z0-9=_-])?")
_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH}}}")  # reserved for changed names
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # not allowed as files on Windows


def file_name(parts: Sequence[str], read: Callable[[str], Sequence[str] | None] | None = None) -> str:
    """A name for a file or an anchor, of at most `MOST` ASCII characters, without a suffix.

    It consists of the parts joined by underscores if `read` recovers the parts from that; otherwise of the allowed
    characters of the parts and a hash.

    Args:
        read: name -> its parts, or None if it has none; by default, the name is one part.
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
    """A name as text for any encoding, terminal and table.

    Control characters, line ends, and bytes of file names that are not UTF-8 are escaped.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


def encodable(text: str) -> str:
    """A text that can be encoded as UTF-8; bytes of file names that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
