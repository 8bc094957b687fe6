"""The report of sweeps, or one part of it: the tables, the figures or the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.cli.reading import analysis_of, loaded_from
from analysis.figures.drawing import KINDS
from analysis.load.exporting import FORMATS, dictionary, export, exported
from analysis.progress import progress
from analysis.render.export import tidy_csv, to_json
from analysis.render.latex import latex
from analysis.render.markdown import markdown
from analysis.render.terminal import console, show
from analysis.report.opening import opening
from analysis.report.write import write_figures, write_report
from tensloradist.errors import UserError, unknown
from tensloradist.files import write_replacing
from tensloradist.terminal import say, write_out

PARTS = ("tables", "figures", "results")
TABLES = {"markdown": markdown, "latex": latex, "csv": tidy_csv, "json": to_json}
TABLE_FORMATS = ("terminal", *TABLES)

# Option: the parts that it belongs to; None is the whole report.
_FITS: dict[str, tuple[str | None, ...]] = {
    "--format": ("tables", "results"),
    "--kind": ("figures",),
    "--columns": ("results",),
    "--margin": (None, "tables", "figures"),
}


def write(
    sweeps: list[str],
    results: Path | None = None,
    only: str | None = None,
    *,
    out: Path | None = None,
    form: str | None = None,
    kinds: list[str] | None = None,
    columns: bool = False,
    margin: float | None = None,
) -> None:
    """Write the report of sweeps, or the part that `only` names; arguments as for the functions below.

    Raises:
        UserError: an unknown part, an option that does not fit it, or as the functions below.
    """
    if only is not None and only not in PARTS:
        raise unknown("part of the report", only, PARTS)
    given = {"--format": form, "--kind": kinds, "--columns": columns or None, "--margin": margin}
    for option, value in given.items():
        if value is not None and only not in _FITS[option]:
            raise UserError(_misplaced(option, only))
    if only == "tables":
        tables(sweeps, results, form or "terminal", out, margin)
    elif only == "figures":
        figures(sweeps, results, out, kinds, margin)
    elif columns:
        say(*(_described(name, column) for name, column in dictionary().items()))
    elif only == "results":
        table_of_runs(sweeps, results, form or "csv", out)
    else:
        whole(sweeps, results, out, margin)


def _misplaced(option: str, only: str | None) -> str:
    where = [f"--only {part}" if part else "the whole report" for part in _FITS[option]]
    here = f"--only {only}" if only else "the whole report"
    return f"{option}: not for {here}; it is for {', '.join(where)}"


def whole(sweeps: list[str], results: Path | None, out: Path | None, margin: float | None = None) -> None:
    """Write the page, the tables and the figures into a folder, and print the tables and the answer in sentences.

    Args:
        margin: half the region of practical equivalence, in points; None for 0.5.

    Raises:
        UserError: no folder, or sweeps that cannot be read.
    """
    if out is None:
        raise UserError("--out is needed: a folder for the page, the tables and the figures")
    analysis = analysis_of(sweeps, results, margin)
    with progress("Drawing the figures") as step:
        path = write_report(analysis, out, step)
    to = console()
    show(analysis, to)
    to.print()
    for sentence in opening(analysis):
        to.print(sentence)
    say(f"Written: {path}, with the tables and figures beside it")


def tables(
    sweeps: list[str], results: Path | None, form: str, out: Path | None = None, margin: float | None = None
) -> None:
    """Print the tables in one of `TABLE_FORMATS`, or write them to a file.

    Raises:
        UserError: an unknown format, a file without a format, or sweeps that cannot be read.
    """
    if form not in TABLE_FORMATS:
        raise unknown("format", form, TABLE_FORMATS)
    if form == "terminal" and out is not None:
        raise UserError("--out needs a --format: markdown, latex, csv or json")
    analysis = analysis_of(sweeps, results, margin)
    if form in ("csv", "latex"):  # the other formats contain the warnings
        say(*analysis.loaded.warnings, stderr=True)
    if form == "terminal":
        show(analysis, console())
    elif out is None:
        write_out(TABLES[form](analysis))
    else:
        write_replacing(out, TABLES[form](analysis))
        say(f"Written: {out}")


def figures(
    sweeps: list[str],
    results: Path | None,
    out: Path | None,
    kinds: list[str] | None = None,
    margin: float | None = None,
) -> None:
    """Write figures as SVG and PNG into a folder, and print why some cannot be drawn.

    Args:
        kinds: keys of `KINDS`; None for all.

    Raises:
        UserError: no folder, an unknown kind, or sweeps that cannot be read.
    """
    if out is None:
        raise UserError("--out is needed: a folder for the figures")
    for kind in kinds or ():
        if kind not in KINDS:
            raise unknown("kind of figure", kind, KINDS)
    analysis = analysis_of(sweeps, results, margin)
    with progress("Drawing the figures") as step:
        drawn, absent = write_figures(analysis, out, kinds=kinds, progress=step)
    say(*analysis.loaded.warnings, *absent, *([] if drawn else ["There is nothing to draw yet."]))
    say(f"Written: {len(drawn)} figures in {out}, each as SVG and PNG")


def table_of_runs(sweeps: list[str], results: Path | None, form: str, out: Path | None = None) -> None:
    """Print a row for each run and condition in one of `FORMATS`, or write it to a file.

    Raises:
        UserError: an unknown format, Parquet without a file, or sweeps that cannot be read.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if form == "parquet" and out is None:
        raise UserError("--format parquet: give a file with --out")
    loaded = loaded_from(sweeps, results)
    say(*loaded.warnings, *loaded.left_out(), stderr=True)
    if out is None:
        write_out(exported(loaded.frame, form))
    else:
        say(*(f"Written: {path}" for path in export(loaded.frame, form, out)), stderr=True)


def _described(name: str, column: dict[str, Any]) -> str:
    unit = f" [{column['unit']}]" if column["unit"] else ""
    return f"{name}: {column['type']}{unit}, {column['meaning']}"
