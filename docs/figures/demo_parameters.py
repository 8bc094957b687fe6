"""Draws demo_parameters.svg beside this file: the demo's report's figure of adapter parameters against score.

Type `make demo`, then `python docs/figures/demo_parameters.py [RESULTS]`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from analysis.build import analyse
from analysis.load import load
from analysis.report.write import write_figures


def draw(results: Path, path: Path, sweep: str = "demo") -> None:
    """Draw the figure from a results folder in which the sweep was launched."""
    with tempfile.TemporaryDirectory() as folder:
        write_figures(analyse(load(sweep, results)), Path(folder), kinds=["parameters"])
        drawn = next(Path(folder).rglob("parameters*.svg")).read_text(encoding="utf-8")
    # White paper, where a page is shown dark.
    paper = '<rect width="100%" height="100%" fill="white"/>'
    path.write_text(drawn.replace("<style>", f"{paper}<style>", 1), encoding="utf-8")


if __name__ == "__main__":
    target = Path(__file__).with_suffix(".svg")
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "results"), target)
    print(f"Written: {target}")
