"""What the analysis commands share: their options, and reading the sweeps that these name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from analysis.model import Analysis, Loaded

Results = Annotated[Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")]
Sweeps = Annotated[
    list[str], typer.Argument(metavar="SWEEP...", help="Sweep files, names of launched sweeps, or bundles.")
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option("--sweep", help="A sweep file, launched sweep or bundle (repeatable) [the only launched sweep]."),
]
Margin = Annotated[
    float, typer.Option("--margin", min=0.0, help="Half the region of practical equivalence, in points.")
]


def loaded_from(sweeps: list[str], results: Path | None) -> Loaded:
    """The results of these sweeps."""
    from analysis.progress import progress

    with progress("Reading results"):
        from analysis.load import load_from
        from tensloradist.results.layout import results_root

        return load_from(sweeps, results_root(results))


def analysis_of(sweeps: list[str] | None, results: Path | None, margin: float = 0.5) -> Analysis:
    """The analysis of these sweeps; without any, of the only launched sweep in the results folder.

    Args:
        margin: in points.
    """
    from analysis.progress import progress
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root

    if not sweeps:
        root = results_root(results)
        sweeps = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
        if len(sweeps) != 1:
            raise UserError(f"--sweep is needed: {root} has {', '.join(sweeps) or 'no launched sweep'}")
    loaded = loaded_from(sweeps, results)
    with progress("Computing the statistics"):
        from analysis.build import analyse

        return analyse(loaded, margin / 100)
