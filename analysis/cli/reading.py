"""Reading and analysing the sweeps that a command names, with progress on standard error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.progress import progress
from tensloradist.errors import UserError
from tensloradist.results.layout import results_root

if TYPE_CHECKING:
    from analysis.model import Analysis, Loaded

MARGIN = 0.5  # points


def loaded_from(sweeps: list[str], results: Path | None) -> Loaded:
    """The results of these sweeps.

    Args:
        results: the results folder as the user gave it; None for the default.
    """
    with progress("Reading results"):
        from analysis.load import load_from

        return load_from(sweeps, results_root(results))


def analysis_of(sweeps: list[str] | None, results: Path | None, margin: float | None = None) -> Analysis:
    """The analysis of these sweeps; without any, of the only launched sweep in the results folder.

    Args:
        results: the results folder as the user gave it; None for the default.
        margin: half the region of practical equivalence, in points; None for 0.5.

    Raises:
        UserError: no sweep is named, and the results folder does not have exactly one; or one that cannot be read.
    """
    if not sweeps:
        root = results_root(results)
        sweeps = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
        if len(sweeps) != 1:
            raise UserError(f"--sweep is needed: {root} has {', '.join(sweeps) or 'no launched sweep'}")
    loaded = loaded_from(sweeps, results)
    with progress("Computing the statistics"):
        from analysis.build import analyse

        return analyse(loaded, (MARGIN if margin is None else margin) / 100)
