"""The peak rates of accelerators from their data sheets, the reference for utilisation."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """Dense peaks of one device as torch counts devices, in 1e12 operations per second; None: it has no such units.

    Attributes:
        name: words of the device's name.
        bf16: bfloat16 on the matrix units, accumulated in float32, without sparsity.
        fp32: float32 without TF32.
        source: the maker's document.
    """

    name: str
    bf16: float | None
    fp32: float
    source: str


# Other models with the same name, and parts of a card: MIG instances, and virtual GPUs such as 'GRID A100-10C'.
_OTHERS = re.compile(r"\b(MIG|GRID|Laptop|Mobile|Ti|SUPER|D|\d+[ABCQ])\b")

# The first matching name counts, so a special model precedes its family.
PEAKS = (
    Peak("GB200", 2500, 80, "NVIDIA GB200 NVL72 data sheet, a 72nd of the rack"),
    Peak("B200", 2250, 75, "NVIDIA HGX B200 data sheet, an eighth of the board"),
    Peak("GH200", 989, 67, "NVIDIA GH200 Grace Hopper Superchip data sheet"),
    Peak("H200 NVL", 835, 60, "NVIDIA H200 data sheet"),
    Peak("H200", 989, 67, "NVIDIA H200 data sheet"),
    Peak("H100 PCIe", 756, 51, "NVIDIA H100 data sheet"),
    Peak("H100 NVL", 835, 60, "NVIDIA H100 NVL data sheet"),
    Peak("H100", 989, 67, "NVIDIA H100 data sheet, SXM"),
    Peak("A100", 312, 19.5, "NVIDIA A100 data sheet, the same for PCIe and SXM"),
    Peak("L40S", 362, 91.6, "NVIDIA L40S data sheet"),
    Peak("L40", 181, 90.5, "NVIDIA L40 data sheet"),
    Peak("L4", 121, 30.3, "NVIDIA L4 data sheet"),
    Peak("A40", 149.7, 37.4, "NVIDIA A40 data sheet"),
    Peak("RTX A6000", 154.8, 38.7, "NVIDIA RTX A6000 data sheet"),
    Peak("A10G", 70, 35, "NVIDIA A10G data sheet"),
    Peak("A10", 125, 31.2, "NVIDIA A10 data sheet"),
    Peak("RTX 5090", 209.5, 104.8, "NVIDIA RTX Blackwell GPU architecture"),
    Peak("RTX 4090", 165.2, 82.6, "NVIDIA Ada GPU architecture"),
    Peak("RTX 3090", 71, 35.6, "NVIDIA Ampere GA102 GPU architecture"),
    Peak("V100 PCIE", None, 14, "NVIDIA V100 data sheet, PCIe"),
    Peak("V100", None, 15.7, "NVIDIA V100 data sheet, SXM2"),
    Peak("T4", None, 8.1, "NVIDIA T4 data sheet"),
    Peak("MI300X", 1307.4, 163.4, "AMD Instinct MI300X data sheet"),
    Peak("MI250X", 191.5, 47.9, "AMD Instinct MI250X data sheet, one of its two dies, which torch counts as a device"),
)


def peak_rate(device_name: str | None, precision: str) -> float | None:
    """The device's peak in operations per second.

    Args:
        device_name: torch's name of the device; None: a CPU.
        precision: bf16 or fp32.

    Returns:
        None for a CPU, an unknown device, or part of a device.
    """
    words = (device_name or "").replace("-", " ")
    if _OTHERS.search(words):
        return None
    for peak in PEAKS:
        if re.search(rf"\b{peak.name}\b", words):
            rate = peak.bf16 if precision == "bf16" else peak.fp32
            return None if rate is None else rate * 1e12
    return None
