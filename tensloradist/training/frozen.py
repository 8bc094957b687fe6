"""The proof that training does not change a backbone: the hash of its weights, and checksums of all their bits.

SHA-256 of a large backbone takes minutes, a checksum no longer than reading its memory. The hash of the same bits is
computed once per process; equal checksums at a run's end show that the weights are still those that were hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensloradist.adapter import Adapter
from tensloradist.fingerprint import checksum, hash_bytes

_known: dict[str, str] = {}  # all checksums of the process's backbone, hashed -> the hash of its weights


@dataclass(frozen=True)
class HashedWeights:
    """The hash of a backbone's weights as they are at one moment, and the checksum of each by its name."""

    digest: str
    checksums: Mapping[str, str]


def hashed(adapter: Adapter) -> HashedWeights:
    """The backbone under an attached adapter as it is now; its hash is computed only if its bits are new."""
    attachment = adapter.require_attachment()
    checksums = {name: checksum(parameter) for name, parameter in attachment.backbone_parameters().items()}
    key = hash_bytes(*(text for pair in sorted(checksums.items()) for text in pair))
    if key not in _known:
        _known[key] = attachment.backbone_hash()
    return HashedWeights(_known[key], checksums)


def refuse_changed(before: HashedWeights, now: Mapping[str, str]) -> None:
    """Raise RuntimeError, naming the weights, if one has changed or is no longer frozen.

    torch's version counters would not do: a fused optimiser, `.data`, numpy, and the kernels of DeepSpeed and
    bitsandbytes bypass them. A weight that changes and changes back in between is not detected, and does no harm.

    Args:
        now: the checksums of the frozen weights after training.
    """
    changed = [name for name, value in before.checksums.items() if now.get(name) != value]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise RuntimeError(f"the frozen backbone has changed in training: {', '.join(changed[:3])}{more}")


def forget() -> None:
    """Discard the hashes, since another backbone is loaded."""
    _known.clear()
