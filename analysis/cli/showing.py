"""What the commands `compare`, `explain` and `reproduce` print."""

from __future__ import annotations

import json

from analysis.comparison import Comparison
from analysis.explanation import Explanation
from analysis.model import Address, Paired
from analysis.render import text
from analysis.render.facts import facts
from analysis.render.terminal import console
from analysis.reproduction import Reproduction
from analysis.run_comparison import RunComparison
from analysis.verdicts import kind_of_test, seeds_of, verdicts


def show_comparisons(first: str, second: str, found: list[Comparison], method: str | None = None) -> None:
    """A line for each cell, and what the test can say.

    Args:
        method: the method that is compared between the conditions first and second; None if these are methods.
    """
    from rich.table import Table
    from rich.text import Text

    title = f"{f'{method}: ' if method else ''}{first} − {second}, in points, paired by seed"
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    for name in ("backbone", *(() if method else ("condition",)), "task"):
        table.add_column(name)
    for name in (first, second, "difference", "seeds", "p", "p (Holm)", "equivalence"):
        table.add_column(Text(name), justify="right")
    for one in found:
        means = ["—" if mean is None else text.points(mean) for mean in one.means]
        place = [Text(name) for name in (one.backbone, one.condition, f"{one.task} ({one.metric})") if name is not None]
        table.add_row(
            *place, *means, *([one.why_not or "", *[""] * 4] if one.difference is None else _cells(one.difference))
        )
    to = console()
    to.print(table)
    for line in _verdict(found):
        to.print(line, markup=False, highlight=False)


def _verdict(found: list[Comparison]) -> list[str]:
    """What the corrected test can say of the cells shown, and what the columns mean."""
    split = verdicts((_place(one), one.difference) for one in found if one.difference is not None)
    lines = [
        f"{place}: {paired.untested}: not tested; the difference is over the other seeds."
        for place, paired in split.untested
    ]
    if not split.tested:
        return lines
    paired = split.tested[0][1]
    if split.few:
        whom = f": {'; '.join(place for place, _ in split.few)}" if split.enough else ""
        are = "is" if {d.n for _, d in split.few} == {1} else "are"
        cells = f"{paired.family} cell{'s' if paired.family != 1 else ''}"
        lines.append(
            f"{seeds_of(split.few)} {are} too few for a corrected test over {cells} (it needs {paired.seeds_needed})"
            f"{whom}."
        )
    lines.append(
        f"p: {kind_of_test(split.tested)}; Holm over the cells shown. Brackets: 95 % t interval of the paired "
        f"difference. Equivalence: the probability that the difference is within ± "
        f"{text.points(paired.equivalence.margin)} points."
    )
    return lines


def _place(one: Comparison) -> str:
    return ", ".join(name for name in (one.task, one.condition, one.backbone) if name is not None)


def _cells(difference: Paired) -> list[str]:
    same = difference.equivalence.probability
    return [
        text.points(difference.effect, plus=True) + text.bracketed(difference.interval),
        str(difference.n),
        "not tested" if difference.p is None else f"{difference.p:.3g}",
        "" if difference.p_holm is None else f"{difference.p_holm:.3g}",
        "undefined" if same is None else f"{same:.2f}",
    ]


def show_runs(found: RunComparison) -> None:
    """Two runs, example by example."""
    first, second = found.run_ids
    lines = [
        f"{found.metric} × 100 on {found.examples} test examples: {first} {text.points(found.scores[0])}, "
        f"{second} {text.points(found.scores[1])}",
        f"difference {text.points(found.difference.value, plus=True)}{text.bracketed(found.difference.interval)} "
        "points (95 % bootstrap interval over examples)",
    ]
    if found.mcnemar is not None:
        m = found.mcnemar
        lines.append(
            f"both right {m.both}, only {first} {m.only_first}, only {second} {m.only_second}, neither {m.neither}; "
            f"McNemar's exact p = {m.p:.3g}"
        )
    lines.append(
        "This is about these two trained models on such examples; to compare the methods, compare them over seeds."
    )
    for line in lines:
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def show_explanation(found: Explanation) -> None:
    """How a number was obtained, from the number down to the attempts."""
    for line in explanation_lines(found):
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def explanation_lines(found: Explanation) -> list[str]:
    cell = found.cell
    lines = [str(found.address), f"  score × 100: {text.score(cell)} ({cell.metric or 'no metric yet'})"]
    lines += [f"  {fact}" for fact in facts(found)]
    if cell.choice is not None:
        choice = cell.choice
        if choice.why_not_chosen:
            lines.append(f"  not chosen, since {choice.why_not_chosen}: {choice.describe()}; tried:")
        else:
            lines.append(f"  chosen on validation over {choice.common_seeds} common seeds: {choice.describe()}; tried:")
        for tried in choice.tried:
            mean = "no validation score" if tried.validation is None else text.points(tried.validation, digits=2)
            lost = f", {tried.without_score} without a score (diverged)" if tried.without_score else ""
            lines.append(f"    {tried.label}: {mean} ({tried.ended} runs ended{lost})")
    lines.append("  runs:")
    for run in found.runs:
        score = "—" if run.score is None else text.points(run.score, digits=2)
        cause = f" ({run.cause})" if run.cause else ""
        lines.append(f"    seed {run.seed}: {run.run_id}, {run.state}{cause}, score {score}")
        lines += [f"      attempt {attempt.number}: {attempt.line}" for attempt in run.attempts]
    lines.append(f"  specification: {json.dumps(found.spec, sort_keys=True)}")
    return lines + ([f"  again: {found.reproduce}"] if found.reproduce else [])


def show_reproduction(address: Address, found: Reproduction) -> None:
    """The verdict."""
    original, again = ("undefined" if s is None else f"{s:.10g}" for s in (found.original, found.again))
    if found.is_equal:
        verdict = "exactly the same score"
    elif found.is_inside:
        verdict = "another score, inside the interval"
    elif found.holds:
        verdict = "another score, outside the mean's interval but within the range of the cell's seeds"
    else:
        verdict = "another score, outside the interval"
    lines = [
        f"{address}, seed {found.seed}: {verdict}",
        f"  {found.metric}: {original} as published, {again} again",
        f"  95 % interval of the mean:{text.bracketed(found.interval) or ' none, with one seed'}; the seeds' range: "
        f"{text.points(found.spread[0])} to {text.points(found.spread[1])} (× 100)",
        f"  {found.folder}",
    ]
    if not found.is_equal:
        lines.append("  the bits are the same only on the same hardware, versions, threads and code: see `explain`")
    for line in lines:
        console().print(line, markup=False, highlight=False, soft_wrap=True)
