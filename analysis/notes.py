"""What has to be said beside a block: what could not be compared, guards, failures, choices, what seeds allow."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.differences import baseline_of
from analysis.selection import describe
from analysis.statistics.paired import Paired
from analysis.statistics.power import detectable
from analysis.tables import Block, Row, Runs

HARDWARE = {"hardware": "hardware", "precision": "precision", "versions": "library versions"}


def with_notes(block: Block, runs: dict[tuple[str, str], Runs], blocks: list[Block]) -> Block:
    """The block with its notes, and with why its times must not be compared, if so."""
    ended = [run for own in runs.values() for run in own if run.state in ("finished", "diverged")]
    mixed = {what: sorted({str(getattr(run, column)) for run in ended}) for column, what in HARDWARE.items()}
    mixed = {what: found for what, found in mixed.items() if len(found) > 1}
    reasons = [f"runs of different {what} ({'; '.join(found)})" for what, found in mixed.items()]
    if any(not pd.isna(run.workers_per_gpu) and run.workers_per_gpu > 1 for run in ended):
        reasons.append("runs that shared a GPU with others")
    notes = [note for task in block.tasks for note in _of_task(block, task)]
    notes += [
        f"Warning: runs of different {what} are compared here ({'; '.join(found)}); times must not be compared."
        for what, found in mixed.items()
    ]
    notes += _of_rows(block) + _absent(block, blocks) + _failures(runs) + _choices(block.rows)
    return replace(block, notes=notes, no_times=", ".join(reasons) or None)


def _of_task(block: Block, task: str) -> list[str]:
    baseline, why = baseline_of(block)
    if baseline is None:
        return [f"{task}: {why}, so there are no paired differences."]
    if baseline.refused:
        return [f"{task}: LoRA's row is refused, so there are no paired differences."]
    rows = [row for row in block.rows if task in row.cells]
    notes = [
        f"{task}, {row.name}: not compared with LoRA: {row.cells[task].no_difference}."
        for row in rows
        if "differ" in (row.cells[task].no_difference or "")
    ]
    tested = {row.name: d for row in rows if (d := row.cells[task].difference) and d.p_holm is not None}
    return notes + (_verdict(task, tested) if tested else [])


def _verdict(task: str, tested: dict[str, Paired]) -> list[str]:
    """What the corrected test says, or how many seeds it would need; what is equivalent; what could have been found."""
    notes = []
    have, need = min(d.n for d in tested.values()), max(d.seeds_needed or 0 for d in tested.values())
    if have < need:
        notes.append(
            f"{task}: {have} seed{'s are' if have > 1 else ' is'} too few for a corrected test over "
            f"{len(tested)} rows (it needs {need}); the intervals are the estimate, not a verdict."
        )
    else:
        significant = [name for name, d in tested.items() if d.p_holm is not None and d.p_holm <= 0.05]
        notes.append(
            f"{task}: different from LoRA at 5 % (exact sign-flip test, Holm over {len(tested)} rows): "
            f"{', '.join(significant) or 'none'}."
        )
    margin = next(iter(tested.values())).equivalence.margin
    same = [name for name, d in tested.items() if (d.equivalence.probability or 0) >= 0.95]
    if same:
        notes.append(f"{task}: within ± {100 * margin:g} points of LoRA with probability ≥ 95 %: {', '.join(same)}.")
    undefined = {d.equivalence.undefined for d in tested.values() if d.equivalence.undefined and d.n > 1}
    if undefined:
        names = [name for name, d in tested.items() if d.equivalence.undefined and d.n > 1]
        notes.append(
            f"{task}: equivalence to LoRA is undefined for {', '.join(names)}: {'; '.join(sorted(undefined))}."
        )
    spreads = [d.spread for d in tested.values() if d.spread]
    shown = detectable(float(np.median(spreads)), have, len(tested)) if spreads else None
    if shown is not None and shown > 1:  # 100 points: most scores cannot differ by more
        notes.append(
            f"{task}: with {have} seeds and the spread seen here, hardly any difference would be found (paired t test "
            f"at 5 % / {len(tested)} rows): one of {100 * shown:.0f} points in 80 % of repetitions."
        )
    elif shown is not None:
        notes.append(
            f"{task}: with {have} seeds and the spread seen here, a difference of {100 * shown:.1f} points would be "
            f"found in 80 % of repetitions (paired t test at 5 % / {len(tested)} rows); smaller ones would mostly not."
        )
    return notes


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
    """Methods that other conditions or other tasks have."""
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
    """What was chosen for whom: methods with the same choice on one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    not_chosen: dict[str, list[str]] = {}
    diverged = []
    grids: dict[str, set[str]] = {}
    for row in rows:
        for task, cell in row.cells.items():
            choice = cell.choice
            if choice is None:
                continue
            grids.setdefault(task, set()).add(" / ".join(describe(tried.values) for tried in choice.tried))
            if choice.why_not_chosen:
                not_chosen.setdefault(choice.why_not_chosen, []).append(row.name)
                continue
            groups.setdefault((task, choice.describe()), []).append(row.name)
            if lost := choice.setting.without_score:
                diverged.append(
                    f"{task}, {row.name}: of the {choice.common_seeds} runs that {describe(choice.chosen)} was chosen "
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
