"""The proof that training leaves a backbone alone: the hash of its weights, and checksums of all their bits.

SHA-256 of a large backbone takes minutes, a checksum no more than reading its memory. The hash of the same bits is
computed once a process; at a run's end, equal checksums say that the weights still are what was hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensloradist.adapter import Adapter
from tensloradist.adapter.checkpoint import backbone_hash, backbone_parameters
from tensloradist.fingerprint import checksum, hash_bytes

_known: dict[str, str] = {}  # all checksums of the process's backbone, hashed -> the hash of its weights


@dataclass(frozen=True)
class HashedWeights:
    """The hash of a backbone's weights as they are at one moment, and the checksum of each by its name."""

    digest: str
    checksums: Mapping[str, str]


def hashed(adapter: Adapter) -> HashedWeights:
    """The backbone under an attached adapter as it is now: its `backbone_hash`, computed where its bits are new."""
    checksums = {name: checksum(parameter) for name, parameter in backbone_parameters(adapter).items()}
    key = hash_bytes(*(text for pair in sorted(checksums.items()) for text in pair))
    if key not in _known:
        _known[key] = backbone_hash(adapter)
    return HashedWeights(_known[key], checksums)


def refuse_changed(before: HashedWeights, now: Mapping[str, str]) -> None:
    """Raise RuntimeError, naming the weights, where one is not what it was or no longer frozen.

    Not by torch's version counters: a fused optimiser, `.data`, numpy, and the kernels of DeepSpeed and bitsandbytes
    write past them. What changes and changes back in between is not seen, nor does it count.

    Args:
        now: the checksums of the frozen weights, as training has left them.
    """
    changed = [name for name, value in before.checksums.items() if now.get(name) != value]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise RuntimeError(f"the frozen backbone has changed in training: {', '.join(changed[:3])}{more}")


def forget() -> None:
    """Let go of the hashes: another backbone is loaded."""
    _known.clear()
