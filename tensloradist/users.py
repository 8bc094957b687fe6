"""Who runs this process, by name where the machine knows one."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def username() -> str:
    """The user's name; 'uid 1234' in a container that was started with a number that it has no name for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def owner_of_file(path: Path) -> str:
    """The name of the user who owns a file, or the number where it has no name."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)
