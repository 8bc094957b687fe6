"""A methods paragraph for a paper: how these runs were made and analysed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from analysis.model import Analysis, Cell, Method
from analysis.verdicts import kind_of_test, verdicts
from tensloradist.wording import counted

PROTOCOLS = {
    "sound": "The training, validation and test parts are disjoint and the same for all seeds; scores are test scores "
    "at the last epoch (protocol 'sound').",
    "official": "The runs repeat the official TensLoRA scripts, so scores are the best test scores over epochs "
    "(protocol 'official').",
}


def methods_paragraph(analysis: Analysis) -> str:
    """One paragraph of prose."""
    cells = [cell for _, _, _, cell in analysis.cells() if cell.planned]
    if not any(cell.scores for cell in cells):
        return "No run has finished, so there is nothing to describe yet."
    parts = [*_training(analysis, cells), *_selection(analysis), *_intervals(cells), *_tests(analysis, cells)]
    parts += [*_overall(analysis), *_provenance(analysis)]
    return " ".join(parts)


def _training(analysis: Analysis, cells: list[Cell]) -> list[str]:
    tasks, backbones = (_values(analysis, name) for name in ("task", "backbone"))
    rows = list(dict.fromkeys(row.name for block in analysis.blocks for row in block.rows))
    parts = [
        f"{counted(len(rows), 'method')} ({', '.join(rows)}) {'were' if len(rows) > 1 else 'was'} trained on "
        f"{_listed(tasks)} with {_listed(backbones)}, with {_seeds(cell.planned for cell in cells)} per setting."
    ]
    kinds = {block.condition.kind for block in analysis.blocks}
    if "isorank" in kinds:
        ranks = sorted({b.condition.rank for b in analysis.blocks if b.condition.kind == "isorank"})
        parts.append(f"Under isorank, every mode has LoRA's rank ({', '.join(map(str, ranks))}).")
    for condition in {block.condition.name: block.condition for block in analysis.blocks}.values():
        if condition.kind == "isoparameter":
            tolerance = condition.tolerance
            within = (
                f"; rows that miss it by more than {100 * tolerance:g} % are not ranked"
                if tolerance is not None
                else ""
            )
            pinned = "".join(f", {mode} pinned to {rank}" for mode, rank in sorted(condition.pinned.items()))
            parts.append(
                f"Under isoparameter, the ranks ({condition.strategy}{pinned}) were solved to match the parameter "
                f"count of LoRA r={condition.rank}{within}."
            )
    parts += [
        PROTOCOLS.get(str(protocol), f"The protocol is '{protocol}'.") for protocol in _values(analysis, "protocol")
    ]
    states = Counter(run["state"] for run in analysis.runs.values())
    if rest := [f"{number} {state}" for state, number in sorted(states.items()) if state != "finished"]:
        parts.append(
            f"{states['finished']} of {sum(states.values())} runs finished ({', '.join(rest)}); incomplete rows are "
            "not ranked."
        )
    return parts


def _selection(analysis: Analysis) -> list[str]:
    choices = analysis.choices
    grids = dict.fromkeys(
        tuple(setting.label for setting in choice.tried) for choice in choices if len(choice.tried) > 1
    )
    if not grids:
        return []
    edges = sum(choice.at_edge for choice in choices)
    diverged = sum(choice.setting.without_score > 0 for choice in choices if not choice.why_not_chosen)
    unchosen = sum(choice.why_not_chosen is not None for choice in choices)
    official = _values(analysis, "protocol") == ["official"]
    part = "test score, because this protocol validates on the test part," if official else "validation score"
    sentences = [
        f"For each method, task and condition, one setting ({'; or '.join(' / '.join(grid) for grid in grids)}) was "
        f"chosen by its mean {part} over the seeds common to all settings"
        + (f"; {edges} of {len(choices)} choices lie at the edge of their grid." if edges else ".")
    ]
    if diverged:
        sentences.append(
            f"Settings with fewer diverged runs took precedence; {diverged} of the chosen ones {_have(diverged)} "
            "diverged runs, and the mean covers the others."
        )
    if unchosen:
        sentences.append(
            f"In {unchosen} of {len(choices)} cells no choice was possible for lack of scores on common seeds, so the "
            "first setting was used."
        )
    return sentences


def _intervals(cells: list[Cell]) -> list[str]:
    methods = {cell.estimate.interval.method for cell in cells if cell.estimate and cell.estimate.interval}
    used = [f"{m.label} intervals" + (f" ({m.use})" if m.use else "") for m in Method if m in methods]
    if not used:
        return ["There is one seed per setting, so there are no intervals."]
    return [
        f"Seeds are the unit of replication: means have 95 % {' or '.join(used)} over seeds, which cover the "
        "randomness of training but not the sampling of test examples."
    ]


def _tests(analysis: Analysis, cells: list[Cell]) -> list[str]:
    differences = [cell.difference for cell in cells if cell.difference]
    if not differences:
        return []
    parts = [
        "Differences to LoRA are paired by seed (the same data order and head initialisation, checked by fingerprint)"
        + (" and have 95 % t intervals." if any(d.interval for d in differences) else ".")
    ]
    split = verdicts(("", d) for d in differences)
    if split.tested:
        parts.append(
            f"They are tested by two-sided permutation tests ({kind_of_test(split.tested)}), Holm-corrected over the "
            "methods of a task and condition."
        )
        if few := len(split.few):
            parts.append(
                f"{few} of {len(split.tested)} differences {_have(few)} too few seeds for this test to reach 5 %."
            )
    if lost := len(split.untested):
        parts.append(
            f"{lost} of {len(differences)} differences {'are' if lost > 1 else 'is'} not tested because runs diverged "
            "and cover only the other seeds."
        )
    if any(d.equivalence.probability is not None for d in differences):
        parts.append(
            f"Equivalence is judged by the posterior probability (Student t, reference prior) that the mean difference "
            f"lies within ± {100 * analysis.margin:g} points, and by two one-sided t tests."
        )
    return parts


def _overall(analysis: Analysis) -> list[str]:
    rows = [row for overall in analysis.overall for row in overall.rows]
    parts = []
    if any(row.iqm for row in rows):
        scale = "scores normalised per task (head-only training 0, full fine-tuning 1)"
        used = scale if any(row.normalised for row in rows) else "raw scores"
        bootstrapped = any(row.iqm.interval for row in rows if row.iqm)
        parts.append(
            f"Over tasks, scores are summarised by interquartile means of {used}, "
            + ("with 95 % intervals from a stratified bootstrap of seeds." if bootstrapped else "without intervals.")
        )
    if any(row.improvement for row in rows):
        bootstrapped = any(row.improvement.interval for row in rows if row.improvement)
        parts.append(
            "The probability of improvement is that of a run scoring higher than a LoRA run on the same task, "
            + ("with an interval of the same kind." if bootstrapped else "without an interval.")
        )
    if any(overall.ranks for overall in analysis.overall):
        parts.append("Mean ranks over data sets are compared by Friedman's test and Nemenyi's critical difference.")
    return parts


def _provenance(analysis: Analysis) -> list[str]:
    parts = []
    for column, what in (("hardware", "on"), ("precision", "in"), ("versions", "with")):
        values = sorted(_values(analysis, column))
        if values:
            parts.append(f"{what} {' or '.join(f'({v})' if len(values) > 1 and what == 'with' else v for v in values)}")
    return [f"Runs were trained {', '.join(parts)}."] if parts else []


def _values(analysis: Analysis, column: str) -> list[str]:
    """The distinct values that the runs record, in order."""
    return [str(value) for value in dict.fromkeys(run[column] for run in analysis.runs.values()) if value is not None]


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _have(number: int) -> str:
    return "have" if number != 1 else "has"


def _seeds(numbers: Iterable[int]) -> str:
    values = list(numbers)
    low, high = min(values), max(values)
    return counted(low, "seed") if low == high else f"{low} to {high} seeds"
