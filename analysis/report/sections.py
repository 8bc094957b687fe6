"""The page's sections on cells, each on how its number was obtained. Fields that all runs share are listed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.explanation import Explanation, explain
from analysis.model import Address, Analysis
from analysis.render import text
from analysis.render.facts import facts
from tensloradist.errors import UserError
from tensloradist.nested import dotted


@dataclass(frozen=True, kw_only=True)
class CellSection:
    """One cell, ready for the page."""

    anchor: str
    title: str
    score: str
    facts: list[str]  # sentences
    spec: tuple[tuple[str, str], ...] = ()  # the fields that other cells do not share
    explanation: Explanation | None = None  # None: its records are damaged


@dataclass(frozen=True)
class Cells:
    """All sections, the fields that all cells share, and the anchor of each cell's section."""

    sections: list[CellSection]
    common: list[tuple[str, str]]
    anchors: dict[Address, str]


def cell_sections(analysis: Analysis) -> Cells:
    """The sections in the tables' order."""
    explained = {address: _explained(analysis, address) for address in analysis.addresses()}
    specs = [dict(_flat(each.spec)) for each in explained.values() if isinstance(each, Explanation) and each.spec]
    common = {key: value for key, value in specs[0].items() if all(s.get(key) == value for s in specs)} if specs else {}
    anchors = {address: f"cell-{number}" for number, address in enumerate(explained, 1)}
    sections = [
        _section(anchors[address], each, common)
        if isinstance(each, Explanation)
        else CellSection(anchor=anchors[address], title=str(address), score="damaged records", facts=[each])
        for address, each in explained.items()
    ]
    return Cells(sections, sorted(common.items()), anchors)


def _explained(analysis: Analysis, address: Address) -> Explanation | str:
    """How a number was obtained, or why that is unknown. One damaged record must not prevent the page."""
    try:
        return explain(analysis, address)
    except UserError as error:
        return f"How this number was obtained is unknown: {error}."


def _flat(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields of a specification by dotted name, as text."""
    return [(name, "none" if value in (None, {}) else str(value)) for name, value in dotted(spec, keep_empty=True)]


def _section(anchor: str, explanation: Explanation, common: dict[str, str]) -> CellSection:
    return CellSection(
        anchor=anchor,
        title=str(explanation.address),
        score=text.score(explanation.cell),
        facts=facts(explanation),
        spec=tuple(item for item in _flat(explanation.spec) if common.get(item[0]) != item[1]),
        explanation=explanation,
    )
