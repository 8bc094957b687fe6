"""Taking a published result back, so that its run is trained again; no result is deleted or overwritten."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tensloradist.files import link_aside, take_away
from tensloradist.results.checkpoints import remove_checkpoints
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result


def retract(run: RunFolder) -> Path:
    """Rename the result of the run and of its attempt, and remove the checkpoints, from which training would resume.

    Returns:
        the new path of the result, `result.json.retracted-N`, which no other file had.

    Raises:
        UserError: there is no readable result.
    """
    attempt = run.attempt(read_result(run.result).attempt)
    remove_checkpoints(run)
    with suppress(FileNotFoundError):  # of a retraction that was interrupted after this step
        _set_aside(attempt / "result.json")
    return _set_aside(run.result)


def _set_aside(path: Path) -> Path:
    aside = link_aside(path, "retracted")
    take_away(path, aside)
    return aside
