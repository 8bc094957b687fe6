"""Holds: runs that are left alone until a person releases them, because a person or the circuit breaker said so."""

from __future__ import annotations

import json
import time
from typing import Any

from tensloradist.files import write_once
from tensloradist.results.layout import RunFolder
from tensloradist.users import username


def hold(run: RunFolder, reason: str) -> bool:
    """Hold a run; False if it is held already."""
    record = {"reason": reason, "by": username(), "time": time.time()}
    return write_once(run.path / "held.json", json.dumps(record) + "\n")


def held(run: RunFolder) -> dict[str, Any] | None:
    """Why, by whom and when (unix seconds) the run was held; None if it is not."""
    path = run.path / "held.json"
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:  # released meanwhile
        return None
    return record


def release_hold(run: RunFolder) -> bool:
    """Let a held run go on; False if it was not held."""
    path = run.path / "held.json"
    if not path.exists():
        return False
    path.unlink(missing_ok=True)
    return True
