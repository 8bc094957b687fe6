"""The notes below a table: what could not be compared, mixed hardware and code, failures, choices, and power."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.differences import NO_COMMON_SEED
from analysis.model import Block, Paired, Row, Runs
from analysis.statistics.power import detectable
from analysis.verdicts import Verdicts, kind_of_test, seeds_of, verdicts
from tensloradist.metrics import span
from tensloradist.wording import counted

HARDWARE = {"hardware": "hardware", "precision": "precision", "versions": "library versions"}
WAITING = 0.1  # share of the steps' time that may be waiting for data without a warning
SETTINGS = {"threads": "numbers of CPU threads", "environment": "settings of the environment"}


def with_notes(block: Block, runs: dict[tuple[str, str], Runs], blocks: list[Block]) -> Block:
    """The block with its notes, and with the reason if its times must not be compared."""
    ended = [run for own in runs.values() for run in own if run.state in ("finished", "diverged")]
    mixed = {what: sorted({str(getattr(run, column)) for run in ended}) for column, what in HARDWARE.items()}
    for column, what in SETTINGS.items():  # older results do not record these
        mixed[what] = sorted({str(value) for run in ended if not pd.isna(value := getattr(run, column))})
    mixed["plugin code"] = _edited_plugins({run.plugins for run in ended if not pd.isna(run.plugins)})
    reasons = [f"runs with different {what} ({'; '.join(values)})" for what, values in mixed.items() if len(values) > 1]
    notes = [note for task in block.tasks for note in _of_task(block, task)]
    notes += [f"Warning: this table compares {reason}; do not compare their times." for reason in reasons]
    if any(not pd.isna(run.workers_per_gpu) and run.workers_per_gpu > 1 for run in ended):
        reasons.append("runs that shared a GPU with others")
    notes += _of_waiting([run.data_wait_share for run in ended if not pd.isna(run.data_wait_share)])
    notes += _of_rows(block) + _absent(block, blocks) + _failures(runs) + _choices(block.rows)
    return replace(block, notes=notes, no_times=", ".join(reasons) or None)


def _of_waiting(shares: list[float]) -> list[str]:
    """A warning if loading data dominates the step times."""
    if not shares or max(shares) <= WAITING:
        return []
    return [
        f"Warning: training spent up to {max(shares):.0%} of the step time waiting for data, so the step times show "
        "less than the true difference between methods."
    ]


def _edited_plugins(listed: set[str]) -> list[str]:
    """The plugins whose code differs between runs, with the hashes of their code."""
    codes: dict[str, set[str]] = {}
    for plugin in {plugin for plugins in listed for plugin in plugins.split(", ")}:
        codes.setdefault(plugin.split(" ")[0], set()).add(plugin)
    return sorted(plugin for versions in codes.values() if len(versions) > 1 for plugin in versions)


def _of_task(block: Block, task: str) -> list[str]:
    baseline, why = block.baseline
    if baseline is None:
        return [f"{task}: no paired differences ({why})."]
    if baseline.refused:
        return [f"{task}: no paired differences (LoRA's row is refused)."]
    cells = {row.name: row.cells[task] for row in block.rows if task in row.cells}
    notes = [
        f"{task}, {name}: not compared with LoRA because {cell.no_difference}."
        for name, cell in cells.items()
        if cell.no_difference not in (None, NO_COMMON_SEED)
    ]
    split = verdicts((name, cell.difference) for name, cell in cells.items() if cell.difference is not None)
    reasons: dict[str, list[str]] = {}
    for name, paired in split.untested:
        reasons.setdefault(paired.untested or "", []).append(name)
    notes += [
        f"{task}, {', '.join(names)}: {reason}, so the difference covers only the other seeds and is not tested."
        for reason, names in reasons.items()
    ]
    return notes + (_verdict(task, block.metrics[task], split) if split.tested else [])


def _verdict(task: str, metric: str, split: Verdicts[str]) -> list[str]:
    """The corrected test's result or the seeds it needs, equivalent methods, and the smallest detectable difference."""
    notes = []
    first = split.tested[0][1]  # the family and the seeds that it needs are those of the whole column
    rows, need, margin = first.family or 0, first.seeds_needed, first.equivalence.margin
    if split.enough:
        notes.append(
            f"{task}: significantly different from LoRA at 5 % ({kind_of_test(split.enough)}, Holm's correction over "
            f"{counted(rows, 'row')}): {_names(split.established) or 'none'}."
        )
    if split.few:
        are = "is" if {paired.n for _, paired in split.few} == {1} else "are"
        names = f" ({_names(split.few)})" if split.enough else ""
        notes.append(
            f"{task}: {seeds_of(split.few)} {are} too few for a corrected test over {counted(rows, 'row')}, which "
            f"needs {need}{names}; the intervals are estimates, not verdicts."
        )
    if split.equivalent:
        notes.append(
            f"{task}: practically equivalent to LoRA (within ± {100 * margin:g} points with probability ≥ 95 %): "
            f"{_names(split.equivalent)}."
        )
    undefined = [(name, d) for name, d in split.tested if d.equivalence.undefined and d.n > 1]
    if undefined:
        why = sorted({d.equivalence.undefined or "" for _, d in undefined})
        notes.append(f"{task}: equivalence to LoRA is undefined for {_names(undefined)}: {'; '.join(why)}.")
    return notes + _power(task, split.enough or split.few, rows, span(metric))


def _names(items: list[tuple[str, Paired]]) -> str:
    return ", ".join(name for name, _ in items)


def _power(task: str, items: list[tuple[str, Paired]], rows: int, greatest: float) -> list[str]:
    """The difference that a test of these rows would detect, given their fewest seeds and their median spread.

    Args:
        greatest: the largest possible difference of two scores.
    """
    have = min(paired.n for _, paired in items)
    spreads = [paired.spread for _, paired in items if paired.spread]
    shown = detectable(float(np.median(spreads)), have, rows) if spreads else None
    if shown is None:
        return []
    test = f"a paired t test (5 %, Bonferroni over {counted(rows, 'row')})"
    given = f"{task}: with {have} seeds and the observed spread, {test} would"
    if shown > greatest:
        return [f"{given} detect almost no difference: only one of {100 * shown:.0f} points in 80 % of repetitions."]
    return [
        f"{given} detect a difference of {100 * shown:.1f} points in 80 % of repetitions and would usually miss a "
        "smaller one."
    ]


def _of_rows(block: Block) -> list[str]:
    notes = []
    single: dict[str, list[str]] = {}  # tasks on which a row has one seed -> rows
    for row in block.rows:
        if row.refused:
            notes.append(f"{row.name}: refused because {row.refused}.")
        if row.beyond_budget:
            notes.append(f"{row.name}: not ranked, because it is {100 * row.residual:+.1f} % off its budget.")
        if any(len(cell.scores) > 1 and len(set(cell.scores.values())) == 1 for cell in row.cells.values()):
            notes.append(f"{row.name}: all seeds gave the same score, so its interval has zero width.")
        if tasks := [task for task, cell in row.cells.items() if len(cell.scores) == 1]:
            single.setdefault(", ".join(tasks), []).append(row.name)
    return notes + [
        f"{', '.join(rows)}: only one seed on {tasks}, so there is no interval and no test."
        for tasks, rows in single.items()
    ]


def _absent(block: Block, blocks: list[Block]) -> list[str]:
    """Methods that are planned only under other conditions or on other tasks."""
    own = {row.name for row in block.rows}
    other = [row.name for b in blocks if b.backbone == block.backbone for row in b.rows if row.name not in own]
    notes = [f"{name}: not planned under this condition." for name in dict.fromkeys(other)]
    for row in block.rows:
        gaps = [task for task, cell in row.cells.items() if not cell.planned]
        if gaps:
            notes.append(f"{row.name}: not planned on {', '.join(gaps)}.")
    return notes


def _failures(runs: dict[tuple[str, str], Runs]) -> list[str]:
    causes = Counter(run.cause for own in runs.values() for run in own if run.state == "failed")
    return [f"{counted(number, 'run')} failed: {cause}" for cause, number in causes.most_common()]


def _choices(rows: list[Row]) -> list[str]:
    """The setting chosen for each method; methods with the same choice share a note."""
    groups: dict[tuple[str, str], list[str]] = {}
    not_chosen: dict[str, list[str]] = {}
    diverged = []
    grids: dict[str, set[str]] = {}
    for row in rows:
        for task, cell in row.cells.items():
            choice = cell.choice
            if choice is None:
                continue
            grids.setdefault(task, set()).add(" / ".join(tried.label for tried in choice.tried))
            if choice.why_not_chosen:
                not_chosen.setdefault(choice.why_not_chosen, []).append(row.name)
                continue
            groups.setdefault((task, choice.describe()), []).append(row.name)
            if lost := choice.setting.without_score:
                diverged.append(
                    f"{task}, {row.name}: {choice.setting.label} was chosen although {lost} of its "
                    f"{choice.common_seeds} runs diverged, because no other setting has fewer diverged runs."
                )
    notes = [
        f"{task}: {what} was chosen by mean validation score for "
        f"{'all methods' if len(names) == len(rows) else ', '.join(names)}."
        for (task, what), names in groups.items()
    ]
    notes += diverged
    notes += [
        f"Warning: {task}: methods were tuned over different grids ({'; '.join(sorted(labels))}), which favours those "
        "with a larger grid."
        for task, labels in grids.items()
        if len(labels) > 1
    ]
    notes += [
        f"No setting could be chosen because {why}, so the grid's first is shown: {', '.join(dict.fromkeys(names))}."
        for why, names in not_chosen.items()
    ]
    return notes
