"""The page's sections on cells: how each number came to be, with what is common to all runs said once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from analysis.analyse import Analysis
from analysis.cells import Address, CellStory, addresses, story
from analysis.render import text
from analysis.selection import describe
from tensloradist.errors import UserError


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
    found = {address: _told(analysis, address) for address in addresses(analysis)}
    specs = [dict(flat(each.spec)) for each in found.values() if isinstance(each, CellStory) and each.spec]
    common = {key: value for key, value in specs[0].items() if all(s.get(key) == value for s in specs)} if specs else {}
    anchors = {address: f"cell-{number}" for number, address in enumerate(found, 1)}
    sections = [
        _section(anchors[address], each, common)
        if isinstance(each, CellStory)
        else CellSection(anchors[address], str(address), "its records are damaged", [each], [], [], [], [])
        for address, each in found.items()
    ]
    return Cells(sections, sorted(common.items()), anchors)


def _told(analysis: Analysis, address: Address) -> CellStory | str:
    """A cell's story, or why it can't be told: one damaged record must not cost the reader the page."""
    try:
        return story(analysis, address)
    except UserError as error:
        return f"How this number came to be can't be told: {error}."


def flat(fields: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted names and values of a specification."""
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None or value == {} else str(value)


def _section(anchor: str, story: CellStory, common: dict[str, str]) -> CellSection:
    cell, tried = story.cell, []
    if cell.choice is not None:
        for setting in cell.choice.tried:
            validation = "—" if setting.validation is None else f"{100 * setting.validation:.2f}"
            is_chosen = setting.values == cell.choice.chosen and not cell.choice.why_not_chosen
            ended = f"{setting.ended}" + (f", {lost} without a score" if (lost := setting.without_score) else "")
            tried.append((describe(setting.values), validation, ended, is_chosen))
    runs: list[tuple[str, ...]] = [
        (
            str(run.seed),
            run.state,
            "—" if run.score is None else f"{100 * run.score:.2f}",
            "—" if run.validation_score is None else f"{100 * run.validation_score:.2f}",
            "; ".join(f"{attempt.number}: {attempt.line}" for attempt in run.attempts) or (run.cause or "—"),
            run.run_id,
        )
        for run in story.runs
    ]
    own = [(key, value) for key, value in flat(story.spec) if common.get(key) != value]
    retrain = next((run.command for run in story.runs if run.command), None)
    commands = [command for command in (story.reproduce, retrain) if command]
    return CellSection(anchor, str(story.address), text.score(cell), _facts(story), tried, runs, own, commands)


def _facts(story: CellStory) -> list[str]:
    cell, row = story.cell, story.row
    facts = [f"{row.parameters:,} adapter parameters ({row.ranks or 'no ranks'})."]
    if story.block.condition.kind == "isoparameter" and not row.is_reference:
        beyond = ", beyond the tolerance: neither bold nor ranked" if row.beyond_budget else ""
        facts.append(f"{text.points(row.residual, plus=True, digits=2)} % off the budget of LoRA{beyond}.")
    if cell.interval is not None:
        method = {"t": "Student's t", "BCa": "BCa bootstrap"}[cell.interval.method]
        facts.append(
            f"Mean of {len(cell.scores)} seeds; 95 % interval ({method}) {100 * cell.interval.low:.2f} to "
            f"{100 * cell.interval.high:.2f}.".replace("-", text.MINUS)
        )
    elif len(cell.scores) == 1:
        facts.append("One seed: no interval.")
    paired = cell.difference
    if paired is not None:
        over = f"Difference to LoRA over {paired.n} common seed{'s' if paired.n > 1 else ''}"
        if paired.p is None:
            test = f"not tested, since {paired.untested}: it is that of the others"
        else:
            test = f"sign-flip test p = {paired.p:.3g}"
            test += "" if paired.p_holm is None else f", {paired.p_holm:.3g} after Holm's correction"
            need = paired.seeds_needed
            test += f"; the corrected test needs {need} seeds" if need else ""
        facts.append(f"{over}: {text.points(paired.effect, plus=True, digits=2)} points; {test}.")
        same = paired.equivalence
        if same.probability is not None:
            facts.append(
                f"Probability {same.probability:.2f} that the difference lies within ± {100 * same.margin:g} points "
                f"(two one-sided tests: p = {same.p_tost:.3g})."
            )
        elif same.undefined:
            facts.append(f"Equivalence is undefined: {same.undefined}.")
    elif cell.no_difference:
        facts.append(f"Not compared with LoRA: {cell.no_difference}.")
    where = _distinct("hardware", (run.hardware for run in story.runs))
    where += _distinct("precision", (run.precision for run in story.runs))
    where += _distinct("versions", (run.versions for run in story.runs))
    where += _distinct("code", (run.commit for run in story.runs))
    return [*facts, f"Trained with {'; '.join(where)}."] if where else facts


def _distinct(name: str, values: Iterable[str | None]) -> list[str]:
    found = sorted({value for value in values if value})
    return [f"{name} {' and '.join(found)}"] if found else []
