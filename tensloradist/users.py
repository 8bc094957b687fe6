"""Who runs this process, by name where the machine knows one."""

from __future__ import annotations

import getpass
import os


def username() -> str:
    """The user's name; 'uid 1234' in a container that was started with a number that it has no name for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
