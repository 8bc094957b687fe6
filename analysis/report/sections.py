"""The page's sections on cells: how each number was obtained. What all runs have in common is stated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.explanation import Explanation, explain
from analysis.model import Address, Analysis
from analysis.render import text
from analysis.render.facts import facts
from tensloradist.errors import UserError
from tensloradist.nested import dotted


@dataclass(frozen=True)
class CellSection:
    """One cell, ready for the page."""

    anchor: str
    title: str
    score: str
    facts: list[str]  # sentences
    tried: list[tuple[str, str, str, bool]]  # setting, mean validation score, runs ended, chosen
    runs: list[tuple[str, ...]]  # seed, state, score, validation score, attempts, run
    spec: list[tuple[str, str]]  # the fields that not all cells share
    commands: list[str]


@dataclass(frozen=True)
class Cells:
    """All sections, the specification's fields that all cells share, and where each cell's section is."""

    sections: list[CellSection]
    common: list[tuple[str, str]]
    anchors: dict[Address, str]


def cell_sections(analysis: Analysis) -> Cells:
    """The sections in the tables' order."""
    found = {address: _explained(analysis, address) for address in analysis.addresses()}
    specs = [dict(_flat(each.spec)) for each in found.values() if isinstance(each, Explanation) and each.spec]
    common = {key: value for key, value in specs[0].items() if all(s.get(key) == value for s in specs)} if specs else {}
    anchors = {address: f"cell-{number}" for number, address in enumerate(found, 1)}
    sections = [
        _section(anchors[address], each, common)
        if isinstance(each, Explanation)
        else CellSection(anchors[address], str(address), "its records are damaged", [each], [], [], [], [])
        for address, each in found.items()
    ]
    return Cells(sections, sorted(common.items()), anchors)


def _explained(analysis: Analysis, address: Address) -> Explanation | str:
    """How a number was obtained, or why that is unknown: one damaged record must not prevent the page."""
    try:
        return explain(analysis, address)
    except UserError as error:
        return f"How this number was obtained is unknown: {error}."


def _flat(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields of a specification by dotted name, as text."""
    return [(name, "none" if value in (None, {}) else str(value)) for name, value in dotted(spec, keep_empty=True)]


def _section(anchor: str, found: Explanation, common: dict[str, str]) -> CellSection:
    cell, tried = found.cell, []
    if cell.choice is not None:
        for setting in cell.choice.tried:
            validation = "—" if setting.validation is None else f"{100 * setting.validation:.2f}"
            is_chosen = setting.values == cell.choice.chosen and not cell.choice.why_not_chosen
            ended = f"{setting.ended}" + (f", {lost} without a score" if (lost := setting.without_score) else "")
            tried.append((setting.label, validation, ended, is_chosen))
    runs: list[tuple[str, ...]] = [
        (
            str(run.seed),
            run.state,
            "—" if run.score is None else f"{100 * run.score:.2f}",
            "—" if run.validation_score is None else f"{100 * run.validation_score:.2f}",
            "; ".join(f"{attempt.number}: {attempt.line}" for attempt in run.attempts) or (run.cause or "—"),
            run.run_id,
        )
        for run in found.runs
    ]
    own = [(key, value) for key, value in _flat(found.spec) if common.get(key) != value]
    retrain = next((run.command for run in found.runs if run.command), None)
    commands = [command for command in (found.reproduce, retrain) if command]
    return CellSection(anchor, str(found.address), text.score(cell), facts(found), tried, runs, own, commands)
