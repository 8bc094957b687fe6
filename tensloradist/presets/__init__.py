"""Presets: the published neighbours of TensLoRA as members of this family, and readers for their authors' adapters.

A preset is an entry of `PRESETS`: a grouping, a factorisation, initial distributions, a multiplier, where dropout acts,
and which projections the authors adapt. `AdapterSpec(method=name)` takes its defaults from it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tensloradist.presets.members import FIXED_BY_PRESET, PRESETS, Draw, Preset, bias_projections, has_weights

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.adapter import Adapter
    from tensloradist.modes import AttentionShape


def from_original(method: str, tensors: Mapping[str, Tensor], shape: AttentionShape, **settings: Any) -> Adapter:
    """Convert an adapter trained by the authors' code to a member of this family; see `originals.from_original`."""
    from tensloradist.presets.originals import from_original as read

    return read(method, tensors, shape, **settings)


__all__ = ["FIXED_BY_PRESET", "PRESETS", "Draw", "Preset", "bias_projections", "from_original", "has_weights"]
