"""The HTML page: one file that works without a network and without JavaScript."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

from analysis.figures.data import Drawing
from analysis.figures.style import GRID, INK
from analysis.model import Analysis, Block, Overall
from analysis.render import text
from analysis.report.methods import methods_paragraph
from analysis.report.opening import opening
from analysis.report.sections import Cells, cell_sections


@dataclass(frozen=True)
class Shown:
    """One cell of a table; columns are sorted by `value`."""

    text: str
    value: float | str | None = None
    bold: bool = False
    anchor: str | None = None


@dataclass(frozen=True)
class Line:
    name: str
    filter: str
    cells: list[Shown]


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    lines: list[Line]
    notes: list[str]
    empty: str | None = None


def page(analysis: Analysis, drawn: Sequence[tuple[Drawing, Mapping[str, bytes]]], absent: Sequence[str]) -> str:
    """The page.

    Args:
        drawn: the figures with their files, of which the page embeds the SVG.
        absent: sentences on figures that could not be drawn.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    from tensloradist import __version__

    cells = cell_sections(analysis)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: "—" if value is None else f"{100 * value:.2f}"
    return environment.from_string(_own("page.html.j2")).render(
        name=analysis.name,
        version=__version__,
        css=Markup(_own("page.css")),
        script=Markup(_own("page.js")),
        head=text.HEAD,
        opening=opening(analysis),
        warnings=analysis.warnings,
        blocks=[_block(block, cells) for block in analysis.blocks],
        overall=[_overall(overall) for overall in analysis.overall],
        figures=_groups(drawn),
        absent=absent,
        cells=cells,
        failures=_failures(analysis),
        methods=methods_paragraph(analysis),
        sources=", ".join(analysis.loaded.sources),
    )


@lru_cache
def _own(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")


def _block(block: Block, cells: Cells) -> Table:
    lines = []
    for row in block.rows:
        shown = [Shown(text.parameters(row, block), row.parameters)]
        for task in block.tasks:
            cell = row.cells.get(task)
            for column in text.OF_TASK:
                shown.append(_shown(column.text(cell), None if cell is None else column.value(cell)))
            first = len(shown) - len(text.OF_TASK)
            anchor = cells.anchors.get(block.address(row, task))
            shown[first] = replace(shown[first], bold=bool(cell and cell.best), anchor=anchor)
        searched = " ".join([row.name, block.backbone, block.condition.name, *block.tasks])
        lines.append(Line(row.name, searched, shown))
    empty = text.emptiness(block) if text.is_empty(block) else None
    return Table(text.title(block), text.header(block), lines, block.notes, empty)


def _overall(overall: Overall) -> Table:
    columns = text.overall_columns(overall)
    lines = []
    for row in overall.rows if text.has_overall(overall) else []:
        shown = [_shown(column.text(row), column.value(row)) for column in columns]
        searched = " ".join([row.name, overall.backbone, overall.condition.name, *overall.tasks])
        lines.append(Line(row.name, searched, shown))
    return Table(text.title(overall), text.overall_table(overall)[0], lines, overall.notes)


def _shown(shown: str, value: float | None) -> Shown:
    return Shown(shown, "" if value is None else value)


def _groups(drawn: Iterable[tuple[Drawing, Mapping[str, bytes]]]) -> dict[str, list[tuple[Drawing, str]]]:
    """Title -> figures with their SVG, by backbone and task; those over tasks come last."""
    groups: dict[str, list[tuple[Drawing, str]]] = {}
    for drawing, content in drawn:
        title = f"{drawing.task}, {drawing.backbone}" if drawing.task else f"Over tasks, {drawing.backbone}"
        groups.setdefault(title, []).append((drawing, _inline(drawing, content["svg"])))
    return groups


def _inline(drawing: Drawing, svg: bytes) -> str:
    """The SVG as an image in the page's own colours, light or dark."""
    label = html.escape(f"{drawing.title}, {drawing.subtitle}. {drawing.caption}", quote=True)
    shown = svg.decode().replace(INK, "currentColor").replace(GRID, "var(--grid)")
    return shown.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _failures(analysis: Analysis) -> list[tuple[str, str, str, str, str]]:
    """Method, task, state, cause and seeds of the runs that failed, grouped by cause."""
    seeds: dict[tuple[str, str, str, str], set[int]] = {}
    for run in analysis.runs.values():
        if run["state"] not in ("finished", "missing"):
            key = (run["row"], run["task"], run["state"], run["cause"] or "")
            seeds.setdefault(key, set()).add(int(run["seed"]))
    return [(*key, ", ".join(map(str, sorted(numbers)))) for key, numbers in seeds.items()]
