"""Allocate a parameter budget to mode ranks by the spectra of the dense gradient. Imports no torch.

Ranks start at one and grow greedily, each time in the mode that gains most energy per parameter. The energy within the
ranks of all modes is estimated by the product of each mode's share, as if the modes were independent. A mode that keeps
little energy is thus worth more than another direction of a mode that keeps nearly all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from tensloradist import budget
from tensloradist.errors import UserError
from tensloradist.modes import AttentionShape
from tensloradist.spec import AdapterSpec
from tensloradist.spectra import Spectra

_NEIGHBOURHOOD = 2  # how far the last step, which meets the budget, may change the rank of each mode
Ranks = dict[str, int]


def by_spectrum(
    adapter: AdapterSpec,
    parameters: int,
    shape: AttentionShape,
    spectra: Spectra,
    tolerance: float = 0.02,
    pinned: Mapping[str, int] | None = None,
) -> AdapterSpec:
    """The same adapter with the mode ranks of the strategy `spectrum`, whose count is close to `parameters`.

    After the greedy growth, ranks within ± 2 of its result in each mode are compared. The ones within the tolerance
    that keep most energy are taken; if none are within it, the ones nearest to the budget.

    Args:
        spectra: this adapter's (`spectra.spectra_of`).
        pinned: mode -> rank, for modes with a given rank.

    Raises:
        UserError: a pinned mode that the adapter lacks, or whose size the rank exceeds.
    """
    sizes = {spectrum.rank_name: len(spectrum.energies) for spectrum in spectra}
    pinned = dict(pinned or {})
    for mode, rank in pinned.items():
        if mode not in sizes:
            raise UserError(f"pinned: the adapter has no rank {mode!r}; its ranks are {list(sizes)}")
        if not 1 <= rank <= sizes[mode]:
            raise UserError(f"pinned: rank {rank} of mode {mode!r} is not within 1..{sizes[mode]}, the mode's size")

    def count(ranks: Ranks) -> int:
        return budget.count(adapter.model_copy(update={"ranks": ranks}), shape)

    start = {**dict.fromkeys(sizes, 1), **pinned}
    grown = _grow(start, spectra, count, parameters, {mode for mode in sizes if mode not in pinned})
    ranks = _nearest(grown, spectra, count, parameters, tolerance, pinned)
    same = set(ranks.values())
    return adapter.model_copy(update={"ranks": same.pop() if len(same) == 1 else ranks})


def _grow(ranks: Ranks, spectra: Spectra, count: Callable[[Ranks], int], parameters: int, free: set[str]) -> Ranks:
    """Raise one rank at a time, where it gains most energy per parameter, while the budget allows."""
    used = count(ranks)
    while True:
        best, best_gain, best_count, kept = "", -1.0, used, energy_kept(ranks, spectra)
        for spectrum in spectra:
            mode = spectrum.rank_name
            if mode not in free or ranks[mode] >= len(spectrum.energies):
                continue
            more = {**ranks, mode: ranks[mode] + 1}
            grown = count(more)
            gain = (energy_kept(more, spectra) - kept) / (grown - used)
            if grown <= parameters and gain > best_gain:
                best, best_gain, best_count = mode, gain, grown
        if not best:
            return ranks
        ranks, used = {**ranks, best: ranks[best] + 1}, best_count


def _nearest(
    grown: Ranks,
    spectra: Spectra,
    count: Callable[[Ranks], int],
    parameters: int,
    tolerance: float,
    pinned: Mapping[str, int],
) -> Ranks:
    sizes = {spectrum.rank_name: len(spectrum.energies) for spectrum in spectra}
    choices = []
    for mode, rank in grown.items():
        low, high = max(1, rank - _NEIGHBOURHOOD), min(sizes[mode], rank + _NEIGHBOURHOOD)
        choices.append([rank] if mode in pinned else list(range(low, high + 1)))
    candidates = [dict(zip(grown, ranks, strict=True)) for ranks in itertools.product(*choices)]
    residuals = [abs(count(ranks) / parameters - 1) for ranks in candidates]
    accepted = max(tolerance, min(residuals))
    fitting = [pair for pair in zip(candidates, residuals, strict=True) if pair[1] <= accepted]
    return max(fitting, key=lambda pair: (energy_kept(pair[0], spectra), -pair[1]))[0]


def energy_kept(ranks: Ranks, spectra: Spectra) -> float:
    """The fraction of the gradient's energy within the ranks, estimated as if the modes were independent."""
    return math.prod(spectrum.kept(ranks[spectrum.rank_name]) for spectrum in spectra)
