"""Two methods' cells paired by seed: their differences, why there are none, and why some are shown but not tested.

A diverged run is a result and not a gap. Where a seed's run diverged in either cell, the differences of the other seeds
are those of survivors: they are no sample of what the methods do, so no test, and no verdict, is made of them. They
still count in the family that Holm's correction is over, since the method was compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from analysis.columns import FINGERPRINTS
from analysis.statistics.intervals import Values
from analysis.statistics.paired import Equivalence, Paired, paired_many
from analysis.statistics.permutation import holm
from analysis.statistics.power import seeds_needed
from analysis.tables import Cell

NO_COMMON_SEED = "no common seed has finished"
Key = TypeVar("Key", bound=Hashable)
Prints = Mapping[str, Mapping[str, Any]]  # run_id -> its `fingerprint_…` columns


@dataclass(frozen=True)
class Pairing:
    """Seed-by-seed differences of two cells, or why there are none; and why they are not to be tested, if so."""

    differences: Values | None
    why_not: str | None = None
    untested: str | None = None  # '4 of 14 seeds diverged'


def pair(one: Cell, other: Cell, prints: Prints, names: tuple[str, str] = ("", "LoRA")) -> Pairing:
    """The differences one − other over the seeds that both have scores of.

    Args:
        names: whose runs diverged, for the words; '' where that is plain.
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
    """`Paired` of each pairing that has differences, Holm-corrected within its family; computed at once.

    Args:
        family_of: the family of a pairing; None: of none, so that it has no corrected p.
    """
    keys = [key for key, pairing in pairings.items() if pairing.differences is not None]
    samples = [sample for pairing in pairings.values() if (sample := pairing.differences) is not None]
    found = dict(zip(keys, paired_many(samples, margin), strict=True))
    families: dict[Hashable, list[Key]] = defaultdict(list)
    for key, pairing in pairings.items():
        if family_of(key) is not None and (pairing.differences is not None or pairing.untested):
            families[family_of(key)].append(key)
    for key, paired in found.items():
        if reason := pairings[key].untested:
            found[key] = replace(paired, p=None, untested=reason, equivalence=Equivalence(margin, None, None, reason))
    for members in families.values():
        # What is not tested has no p to correct, and counts as if it had been found to be 1.
        ps = [1.0 if key not in found or (p := found[key].p) is None else p for key in members]
        need = seeds_needed(len(members))
        for key, p in zip(members, holm(ps), strict=True):
            if key in found and found[key].p is not None:
                found[key] = replace(found[key], p_holm=p, seeds_needed=need, family=len(members))
    return found


def _without_score(one: Cell, other: Cell, names: tuple[str, str]) -> str | None:
    """'4 of 14 seeds diverged, 1 of 14 seeds of LoRA diverged': among the seeds that have ended in both cells."""
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
    """Which fingerprints differ between two methods' runs of the same seed, if any."""
    fields = [(name, f"fingerprint_{name}") for name in FINGERPRINTS]
    different = {name for a, b in pairs for name, field in fields if prints[a][field] != prints[b][field]}
    return f"the runs differ in {', '.join(sorted(different))}, so they are not paired" if different else None
