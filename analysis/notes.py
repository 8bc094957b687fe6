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

HARDWARE = {"hardware": "hardware", "precision": "precision", "versions": "library versions"}
WAITING = 0.1  # share of the steps' time that may be waiting for data without a warning
SETTINGS = {"threads": "numbers of CPU threads", "environment": "settings of the environment"}


def with_notes(block: Block, runs: dict[tuple[str, str], Runs], blocks: list[Block]) -> Block:
    """The block with its notes, and with the reason if its times must not be compared."""
    ended = [run for own in runs.values() for run in own if run.state in ("finished", "diverged")]
    mixed = {what: sorted({str(getattr(run, column)) for run in ended}) for column, what in HARDWARE.items()}
    for column, what in SETTINGS.items():  # results from before these were recorded say nothing
        mixed[what] = sorted({str(value) for run in ended if not pd.isna(value := getattr(run, column))})
    mixed["plugin code"] = _edited_plugins({run.plugins for run in ended if not pd.isna(run.plugins)})
    mixed = {what: found for what, found in mixed.items() if len(found) > 1}
    reasons = [f"runs of different {what} ({'; '.join(found)})" for what, found in mixed.items()]
    if any(not pd.isna(run.workers_per_gpu) and run.workers_per_gpu > 1 for run in ended):
        reasons.append("runs that shared a GPU with others")
    notes = [note for task in block.tasks for note in _of_task(block, task)]
    notes += [
        f"Warning: runs of different {what} are compared here ({'; '.join(found)}); times must not be compared."
        for what, found in mixed.items()
    ]
    notes += _of_waiting([run.data_wait_share for run in ended if not pd.isna(run.data_wait_share)])
    notes += _of_rows(block) + _absent(block, blocks) + _failures(runs) + _choices(block.rows)
    return replace(block, notes=notes, no_times=", ".join(reasons) or None)


def _of_waiting(shares: list[float]) -> list[str]:
    """A warning where step times are the data's more than the methods'."""
    if not shares or max(shares) <= WAITING:
        return []
    return [
        f"Warning: training waited for its data for up to {max(shares):.0%} of the steps' time; the step times of "
        "methods differ by more than they appear to."
    ]


def _edited_plugins(listed: set[str]) -> list[str]:
    """The plugins whose code differs between runs, with the hashes of their code."""
    codes: dict[str, set[str]] = {}
    for plugin in {plugin for plugins in listed for plugin in plugins.split(", ")}:
        codes.setdefault(plugin.split(" ")[0], set()).add(plugin)
    return sorted(plugin for found in codes.values() if len(found) > 1 for plugin in found)


def _of_task(block: Block, task: str) -> list[str]:
    baseline, why = block.baseline
    if baseline is None:
        return [f"{task}: {why}, so there are no paired differences."]
    if baseline.refused:
        return [f"{task}: LoRA's row is refused, so there are no paired differences."]
    cells = {row.name: row.cells[task] for row in block.rows if task in row.cells}
    notes = [
        f"{task}, {name}: not compared with LoRA: {cell.no_difference}."
        for name, cell in cells.items()
        if cell.no_difference not in (None, NO_COMMON_SEED)
    ]
    found = verdicts((name, cell.difference) for name, cell in cells.items() if cell.difference is not None)
    reasons: dict[str, list[str]] = {}
    for name, paired in found.untested:
        reasons.setdefault(paired.untested or "", []).append(name)
    notes += [
        f"{task}, {', '.join(names)}: {reason}: not tested; the difference is over the other seeds."
        for reason, names in reasons.items()
    ]
    return notes + (_verdict(task, block.metrics[task], found) if found.tested else [])


def _verdict(task: str, metric: str, found: Verdicts[str]) -> list[str]:
    """What the corrected test says or how many seeds it needs, what is equivalent, and what could have been found."""
    notes = []
    rows, need = _of_family(found.tested)
    if found.enough:
        notes.append(
            f"{task}: different from LoRA at 5 % ({kind_of_test(found.enough)}, Holm over {rows} rows): "
            f"{_names(found.established) or 'none'}."
        )
    if found.few:
        are = "is" if {paired.n for _, paired in found.few} == {1} else "are"
        whom = f": {_names(found.few)}" if found.enough else ""
        notes.append(
            f"{task}: {seeds_of(found.few)} {are} too few for a corrected test over {rows} rows (it needs {need})"
            f"{whom}; the intervals are the estimate, not a verdict."
        )
    margin = found.tested[0][1].equivalence.margin
    if found.equivalent:
        notes.append(
            f"{task}: within ± {100 * margin:g} points of LoRA with probability ≥ 95 %: {_names(found.equivalent)}."
        )
    undefined = [(name, d) for name, d in found.tested if d.equivalence.undefined and d.n > 1]
    if undefined:
        why = sorted({d.equivalence.undefined or "" for _, d in undefined})
        notes.append(f"{task}: equivalence to LoRA is undefined for {_names(undefined)}: {'; '.join(why)}.")
    return notes + _power(task, found.enough or found.few, rows, span(metric))


def _of_family(tested: list[tuple[str, Paired]]) -> tuple[int, int]:
    """The number of rows that Holm's correction is over, and of seeds it needs: the same for a whole column."""
    paired = tested[0][1]
    return paired.family or 0, paired.seeds_needed or 0


def _names(items: list[tuple[str, Paired]]) -> str:
    return ", ".join(name for name, _ in items)


def _power(task: str, items: list[tuple[str, Paired]], rows: int, greatest: float) -> list[str]:
    """The difference that these rows could have shown with their smallest number of seeds and their median spread.

    Args:
        greatest: the greatest difference that scores can have.
    """
    have = min(paired.n for _, paired in items)
    spreads = [paired.spread for _, paired in items if paired.spread]
    shown = detectable(float(np.median(spreads)), have, rows) if spreads else None
    if shown is None:
        return []
    if shown > greatest:
        return [
            f"{task}: with {have} seeds and the spread seen here, hardly any difference would be found (paired t test "
            f"at 5 % / {rows} rows): one of {100 * shown:.0f} points in 80 % of repetitions."
        ]
    return [
        f"{task}: with {have} seeds and the spread seen here, a difference of {100 * shown:.1f} points would be "
        f"found in 80 % of repetitions (paired t test at 5 % / {rows} rows); smaller ones would mostly not."
    ]


def _of_rows(block: Block) -> list[str]:
    notes = []
    for row in block.rows:
        if row.refused:
            notes.append(f"{row.name}: refused, {row.refused}.")
        if row.beyond_budget:
            notes.append(f"{row.name}: {100 * row.residual:+.1f} % off its budget, beyond the tolerance; not ranked.")
        if any(len(cell.scores) > 1 and len(set(cell.scores.values())) == 1 for cell in row.cells.values()):
            notes.append(f"{row.name}: all seeds gave the same score, so its interval has no width.")
        if any(len(cell.scores) == 1 for cell in row.cells.values()):
            tasks = [task for task, cell in row.cells.items() if len(cell.scores) == 1]
            notes.append(f"{row.name}: one seed on {', '.join(tasks)}, hence no interval and no test.")
    return notes


def _absent(block: Block, blocks: list[Block]) -> list[str]:
    """Methods that are planned under other conditions or on other tasks only."""
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
    return [f"{number} failed: {cause}" for cause, number in causes.most_common()]


def _choices(rows: list[Row]) -> list[str]:
    """What was chosen for which method; methods with the same choice share a note."""
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
                    f"{task}, {row.name}: of the {choice.common_seeds} runs that {choice.setting.label} was chosen "
                    f"by, {lost} {'have' if lost > 1 else 'has'} no validation score (diverged); no setting has fewer "
                    "such runs."
                )
    notes = [
        f"{task}: {what}, by mean validation score, for "
        f"{'all methods' if len(names) == len(rows) else ', '.join(names)}."
        for (task, what), names in groups.items()
    ]
    notes += diverged
    notes += [
        f"Warning: {task}: methods have different grids ({'; '.join(sorted(found))}), so the larger ones are favoured."
        for task, found in grids.items()
        if len(found) > 1
    ]
    notes += [
        f"Not chosen but first of the grid, since {why}: {', '.join(dict.fromkeys(names))}."
        for why, names in not_chosen.items()
    ]
    return notes
