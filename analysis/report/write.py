"""Write a report: the page, the tables in four formats, and each figure as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.figures.data import Drawing
from analysis.figures.drawing import draw_all
from analysis.figures.plan import plan_figures
from analysis.model import Analysis
from analysis.progress import Progress
from analysis.render.export import tidy_csv, to_json
from analysis.render.latex import latex
from analysis.render.markdown import markdown
from analysis.report.page import page
from tensloradist.files import write_replacing

TABLES: dict[str, Callable[[Analysis], str]] = {
    "tables.md": markdown,
    "tables.tex": latex,
    "tables.csv": tidy_csv,
    "tables.json": to_json,
}


def write_tables(analysis: Analysis, out: Path) -> list[Path]:
    """Write the tables in every format."""
    for name, render in TABLES.items():
        write_replacing(out / name, render(analysis))
    return [out / name for name in TABLES]


def write_figures(
    analysis: Analysis, out: Path, kinds: Sequence[str] | None = None, progress: Progress | None = None
) -> tuple[list[tuple[Drawing, dict[str, bytes]]], list[str]]:
    """Write all figures (or those of some kinds); returns them with their content, and why others are absent."""
    planned = plan_figures(analysis)
    wanted = [drawing for drawing in planned.drawings if not kinds or drawing.kind in kinds]
    drawn = []
    for drawing, content in draw_all(wanted, progress=progress):
        for form, data in content.items():
            write_replacing(out / f"{drawing.name}.{form}", data)
        drawn.append((drawing, content))
    return drawn, planned.absent


def write_report(analysis: Analysis, out: Path, progress: Progress | None = None) -> Path:
    """Write everything; returns the page's path."""
    write_tables(analysis, out)
    drawn, absent = write_figures(analysis, out / "figures", progress=progress)
    path = out / "report.html"
    write_replacing(path, page(analysis, drawn, absent))
    return path
