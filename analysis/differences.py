"""Paired differences: of two methods' cells seed by seed, and of every row to LoRA, Holm-corrected over a column.

A diverged run is a result, not a gap. If a seed diverged in either cell, the remaining seeds are survivors rather than
a fair sample: their difference is shown, but neither tested nor judged. The comparison still counts in the family of
Holm's correction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from analysis.model import FINGERPRINTS, Block, Cell, Paired, Runs
from analysis.statistics.intervals import Values
from analysis.statistics.paired import Equivalence, paired_many
from analysis.statistics.permutation import holm
from analysis.statistics.power import seeds_needed

NO_COMMON_SEED = "no common seed has finished"
Key = TypeVar("Key", bound=Hashable)
Prints = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pairing:
    """Seed-by-seed differences of two cells.

    Attributes:
        differences: one for each common seed; None if `why_not` gives the reason for having none.
        untested: why the differences must not be tested, such as '4 of 14 seeds diverged'.
    """

    differences: Values | None
    why_not: str | None = None
    untested: str | None = None


def pair(one: Cell, other: Cell, prints: Prints, names: tuple[str, str] = ("", "LoRA")) -> Pairing:
    """The differences one − other over the seeds for which both have scores.

    Args:
        prints: run_id -> its `fingerprint_…` columns.
        names: the two cells' names in messages; '' for a cell that needs no name.
    """
    common = sorted(one.scores.keys() & other.scores.keys())
    untested = _without_score(one, other, names)
    if not common:
        return Pairing(None, untested or NO_COMMON_SEED, untested)
    mismatch = _mismatch([(one.run_ids[seed], other.run_ids[seed]) for seed in common], prints)
    if mismatch:
        return Pairing(None, mismatch)
    return Pairing(np.array([one.scores[seed] - other.scores[seed] for seed in common]), None, untested)


def compared(
    pairings: Mapping[Key, Pairing], margin: float, family_of: Callable[[Key], Hashable] = lambda key: ""
) -> dict[Key, Paired]:
    """The `Paired` of each pairing that has differences, Holm-corrected within its family and computed in one go.

    Args:
        family_of: key -> the pairing's family; None for a pairing without a family, which gets no corrected p.
    """
    keys = [key for key, pairing in pairings.items() if pairing.differences is not None]
    samples = [sample for pairing in pairings.values() if (sample := pairing.differences) is not None]
    results = dict(zip(keys, paired_many(samples, margin), strict=True))
    families: dict[Hashable, list[Key]] = defaultdict(list)
    for key, pairing in pairings.items():
        if family_of(key) is not None and (pairing.differences is not None or pairing.untested):
            families[family_of(key)].append(key)
    for key, paired in results.items():
        if reason := pairings[key].untested:
            results[key] = replace(paired, p=None, untested=reason, equivalence=Equivalence(margin, None, None, reason))
    for members in families.values():
        # An untested difference has no p to correct, so it counts as p = 1.
        ps = [1.0 if key not in results or (p := results[key].p) is None else p for key in members]
        need = seeds_needed(len(members))
        for key, p in zip(members, holm(ps), strict=True):
            if key in results and results[key].p is not None:
                results[key] = replace(results[key], p_holm=p, seeds_needed=need, family=len(members))
    return results


def _without_score(one: Cell, other: Cell, names: tuple[str, str]) -> str | None:
    """'4 of 14 seeds diverged, 1 of 14 seeds of LoRA diverged', counting the seeds that ended in both cells."""
    both = (one.scores.keys() | one.without_score.keys()) & (other.scores.keys() | other.without_score.keys())
    parts = []
    for cell, name in zip((one, other), names, strict=True):
        states = Counter(state for seed, state in cell.without_score.items() if seed in both)
        whose = f" of {name}" if name else ""
        for state, number in sorted(states.items()):
            verb = "diverged" if state == "diverged" else f"gave an {state}"
            parts.append(f"{number} of {len(both)} seeds{whose} {verb}")
    return ", ".join(parts) or None


def _mismatch(pairs: Sequence[tuple[str, str]], prints: Prints) -> str | None:
    """Why runs of the same seed must not be paired: which of their fingerprints differ."""
    fields = [(name, f"fingerprint_{name}") for name in FINGERPRINTS]
    different = {name for a, b in pairs for name, field in fields if prints[a][field] != prints[b][field]}
    return f"the runs differ in {', '.join(sorted(different))}, so they are not paired" if different else None


def with_differences(blocks: list[Block], runs_of: list[dict[tuple[str, str], Runs]], margin: float) -> list[Block]:
    """The blocks with every cell's difference to LoRA. All are computed in one go, as a report may have thousands."""
    pairings: dict[tuple[int, str, str], Pairing] = {}
    references = set()
    for i, (block, runs) in enumerate(zip(blocks, runs_of, strict=True)):
        baseline, _ = block.baseline
        if baseline is None or baseline.refused:
            continue
        fields = [f"fingerprint_{name}" for name in FINGERPRINTS]
        prints = {run.run_id: {f: getattr(run, f) for f in fields} for own in runs.values() for run in own}
        for row, task, cell in block.cells():
            if row is not baseline:
                pairings[i, row.name, task] = pair(cell, baseline.cells[task], prints)
                references |= {(i, row.name)} if row.is_reference else set()

    def family(key: tuple[int, str, str]) -> tuple[int, str] | None:
        """A column of a table. References are not compared, so they belong to no family."""
        i, name, task = key
        return None if (i, name) in references else (i, task)

    differences = compared(pairings, margin, family)
    by_block: dict[int, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for (i, name, task), pairing in pairings.items():
        cell = blocks[i].row(name).cells[task]
        by_block[i][name, task] = replace(
            cell, difference=differences.get((i, name, task)), no_difference=pairing.why_not
        )
    return [block.with_cells(by_block[i]) for i, block in enumerate(blocks)]
