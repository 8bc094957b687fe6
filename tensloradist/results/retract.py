"""Taking a published result back, so that its run is trained again; no result is deleted or overwritten."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tensloradist.files import sync_folder
from tensloradist.results.checkpoints import remove_checkpoints
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result


def retract(run: RunFolder) -> Path:
    """Rename the run's result and its attempt's, and remove checkpoints, which training would go on from.

    Returns:
        where the result is now, `result.json.retracted-N`.

    Raises:
        UserError: there is no readable result.
    """
    attempt = run.attempt(read_result(run.result).attempt)
    remove_checkpoints(run)
    with suppress(FileNotFoundError):  # of a retraction that was interrupted after this step
        os.rename(attempt / "result.json", attempt / "result.json.retracted")
    number = 1 + sum(1 for _ in run.path.glob("result.json.retracted-*"))
    aside = run.path / f"result.json.retracted-{number}"
    os.rename(run.result, aside)
    sync_folder(run.path)
    return aside
