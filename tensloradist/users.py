"""The names of the user who runs this process and of a file's owner."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def username() -> str:
    """The user's name; 'uid 1234' in a container that has no name for the user's number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def owner_of_file(path: Path) -> str:
    """The name of a file's owner, or the owner's number if it has no name."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)
