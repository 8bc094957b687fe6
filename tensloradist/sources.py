"""Which code this is: the checkout's commit, and a hash of the package's own source files. No torch here."""

from __future__ import annotations

import hashlib
import subprocess
from functools import lru_cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """A hash of this package's source files: tells whether code was edited, in a checkout or not."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The checkout's commit, with '+changes' where files differ from it; None outside a checkout."""
    root = _PACKAGE.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "-c", f"safe.directory={root}"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "") if head.returncode == 0 else None
