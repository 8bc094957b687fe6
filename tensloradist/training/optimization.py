"""AdamW over the adapter and the head, with learning-rate multipliers per parameter group, and the schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from tensloradist.adapter import Adapter
from tensloradist.errors import UserError
from tensloradist.spec import OptimizerSpec

_NO_FACTORS = ("core", "weights", "biases", "backbone", "head")


def parameter_groups(adapter: Adapter, head: list[nn.Parameter], spec: OptimizerSpec) -> list[dict]:
    """One group for each set of parameters with a rate of its own.

    `lr_multipliers` may name a mode, 'core', 'factors' (all modes that are not named), 'head', 'backbone' under
    method `full`, and CaRA's 'weights' and 'biases'.

    Raises:
        UserError: a multiplier for a group that this adapter does not have.
    """
    named = adapter.parameter_groups()
    known = {*named, "head", *(["factors"] if set(named) - set(_NO_FACTORS) else [])}
    for name in spec.lr_multipliers:
        if name not in known:
            raise UserError(
                f"optimizer.lr_multipliers: no parameter group {name!r} in this adapter; it has "
                f"{', '.join(sorted(known))}"
            )
    groups = []
    for name, parameters in {**named, "head": head}.items():
        multiplier = _multiplier(name, spec.lr_multipliers)
        groups.append({"name": name, "params": parameters, "lr": spec.learning_rate * multiplier})
    return [group for group in groups if group["params"]]


def _multiplier(name: str, multipliers: Mapping[str, float]) -> float:
    if name in multipliers:
        return multipliers[name]
    return 1.0 if name in _NO_FACTORS else multipliers.get("factors", 1.0)


def make_optimizer(adapter: Adapter, head: list[nn.Parameter], spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW (decoupled weight decay), fused: one call for all the small parameters, on the CPU too."""
    return torch.optim.AdamW(parameter_groups(adapter, head, spec), weight_decay=spec.weight_decay, fused=True)


def rate_factor(step: int, steps: int, spec: OptimizerSpec) -> float:
    """The learning rate of update `step` (0-based) of `steps`, as a fraction of the peak.

    Linear warm-up over the first `warmup` of all updates, then constant, or cosine or linear down to
    `min_learning_rate`.
    """
    warmup = round(spec.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if spec.schedule == "constant":
        return 1.0
    floor = min(spec.min_learning_rate / spec.learning_rate, 1.0)
    progress = (step - warmup) / max(1, steps - warmup)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if spec.schedule == "cosine" else 1 - progress
    return floor + (1 - floor) * shape


def make_schedule(
    optimizer: torch.optim.Optimizer, steps: int, spec: OptimizerSpec
) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps, spec))
