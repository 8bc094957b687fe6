"""A port of this machine, for the processes of one run to meet at."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that nothing listens on just now: somebody else may still be faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
