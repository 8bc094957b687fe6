"""Held runs: workers leave them alone until a person releases them."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.records import UnreadableRecord, read_object
from tensloradist.results.layout import RunFolder
from tensloradist.users import username


def hold(run: RunFolder, reason: str) -> bool:
    """Hold a run; False if it is held already."""
    record = {"reason": reason, "by": username(), "time": time.time()}
    return write_once(run.path / "held.json", json.dumps(record) + "\n")


def held(run: RunFolder) -> dict[str, Any] | None:
    """The reason, user and time (unix seconds) of a hold; None if the run is not held. A damaged record is a hold."""
    path = run.path / "held.json"
    try:
        record = read_object(path, "the record of a hold")
    except UnreadableRecord as error:
        return {"reason": str(error)}
    return None if record is None else {"reason": "no reason is on record", **record}


def release_hold(run: RunFolder) -> bool:
    """Release a held run; False if it was not held.

    Raises:
        UserError: there is a folder in place of the record.
    """
    path = run.path / "held.json"
    if not os.path.lexists(path):
        return False
    if path.is_dir():
        raise UserError(f"{path}: a folder lies in the place of this file; move it away to release the run")
    path.unlink(missing_ok=True)
    return True
