"""Tables over tasks: interquartile mean, probability of improvement over LoRA, and mean ranks."""

from __future__ import annotations

import numpy as np

from analysis.model import Block, Overall, OverallRow, Row
from analysis.statistics.aggregate import interquartile_mean, normalised, probability_of_improvement
from analysis.statistics.intervals import BOOTSTRAP_FROM, Values
from analysis.statistics.ranks import LEAST_BLOCKS, Ranks, rank
from tensloradist.metrics import may_pool


def build_overall(blocks: list[Block]) -> list[Overall]:
    """A table for each block with at least two tasks."""
    return [_overall(block) for block in blocks if len(block.tasks) > 1]


def _overall(block: Block) -> Overall:
    notes: list[str] = []
    complete = [row for row in block.rows if row.is_ranked and all(cell.is_complete for cell in row.cells.values())]
    left_out = [row.name for row in block.rows if row not in complete and not row.is_reference]
    if left_out:
        notes.append(
            "Left out because they are incomplete (missing, failed or diverged runs), beyond the budget or refused: "
            f"{', '.join(left_out)}."
        )
    scale = _scale(block, notes)
    pooled = scale is not None or may_pool(block.metrics.values())
    if not pooled:
        notes.append(f"Scores of different metrics ({', '.join(sorted(set(block.metrics.values())))}) are not pooled.")
    baseline, why = block.baseline
    if baseline is None:
        notes.append(f"No probability of improvement: {why}.")
    elif baseline not in complete:
        notes.append("No probability of improvement: LoRA is not complete on all tasks.")
        baseline = None
    ranks = _ranks(block, complete, notes)
    means = dict(zip(ranks.names, ranks.mean_ranks, strict=True)) if ranks else {}
    rows = []
    for row in complete:
        strata = [_scores(row, task) for task in block.tasks]
        scaled = [normalised(s, *scale[t]) for s, t in zip(strata, block.tasks, strict=True)] if scale else strata
        improvement = None
        if baseline is not None and row is not baseline:
            improvement = probability_of_improvement(strata, [_scores(baseline, task) for task in block.tasks])
        iqm = interquartile_mean(scaled) if pooled else None
        rows.append(
            OverallRow(
                name=row.name,
                parameters=row.parameters,
                normalised=scale is not None,
                iqm=iqm,
                improvement=improvement,
                mean_rank=means.get(row.name),
            )
        )
    lacking = [row.name for row in rows if any(e and not e.interval for e in (row.iqm, row.improvement))]
    if lacking:
        names = "" if len(lacking) == len(rows) else f" for {', '.join(lacking)}"
        notes.append(
            f"No intervals over tasks{names}: bootstrap intervals are too narrow with fewer than {BOOTSTRAP_FROM} "
            "seeds per task."
        )
    return Overall(
        backbone=block.backbone, condition=block.condition, tasks=block.tasks, rows=rows, ranks=ranks, notes=notes
    )


def _scores(row: Row, task: str) -> Values:
    return np.array(list(row.cells[task].scores.values()))


def _scale(block: Block, notes: list[str]) -> dict[str, tuple[float, float]] | None:
    """Task -> mean scores of head-only training and of full fine-tuning; None if they define no scale."""
    references = {row.method: row for row in block.rows if row.is_reference and not row.refused}
    if set(references) != {"head", "full"}:
        missing = [name for name in ("head", "full") if name not in references]
        notes.append(f"Scores are raw, because the sweep has no {' and no '.join(missing)} to define a common scale.")
        return None
    scale = {}
    for task in block.tasks:
        head, full = (references[name].cells[task].mean for name in ("head", "full"))
        if head is None or full is None or not full > head:
            lacks = "head-only training or full fine-tuning has no score yet"
            reason = lacks if head is None or full is None else "full fine-tuning does not beat head-only training"
            notes.append(f"Scores are raw, because {reason} on {task}.")
            return None
        scale[task] = (head, full)
    return scale


def _ranks(block: Block, rows: list[Row], notes: list[str]) -> Ranks | None:
    sets = [block.data_sets[task] for task in block.tasks]
    scores = np.array([[_scores(row, task).mean() for task in block.tasks] for row in rows])
    ranks = rank([row.name for row in rows], scores, sets) if len(rows) > 1 else None
    if ranks is None:
        notes.append(
            f"No mean ranks: they need {LEAST_BLOCKS} data sets and two complete methods, but there are "
            f"{len(set(sets))} and {len(rows)}."
        )
    else:
        notes.append(
            f"Ranks over {ranks.blocks} data sets: Friedman's p = {ranks.friedman_p:.3g}. Two methods differ at 5 % "
            f"(Nemenyi) only if their mean ranks are at least {ranks.critical_difference:.1f} apart, which is "
            f"{100 * ranks.share:.0f} % of the possible range."
        )
    return ranks
