"""A free port of this machine, where the processes of a run meet."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that is free at the moment; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
