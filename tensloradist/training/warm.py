"""What a warm process keeps between runs: the last backbone and the last task's data, which cost more than many runs.

A backbone is frozen, so a run leaves it as it found it once its adapter is detached; its head is drawn anew by every
run. One of each is kept, so that memory does not grow over a queue of runs.
"""

from __future__ import annotations

import gc
import logging
from typing import Any

import torch
from torch import nn

from tensloradist import backbones, tasks
from tensloradist.adapter import attached_adapter
from tensloradist.spec import RunSpec

log = logging.getLogger(__name__)
_kept: dict[str, tuple[Any, Any]] = {}
_loaded: list[str] = []  # what was loaded since the last `settle`


def task_for(spec: RunSpec) -> tasks.LoadedTask:
    """The loaded data of the spec's task, preprocessed for its backbone."""
    key = (spec.task, spec.backbone, spec.protocol)
    if "task" not in _kept or _kept["task"][0] != key:
        _kept.pop("task", None)
        _loaded.append("task")
        _kept["task"] = key, tasks.load(spec.task, spec.backbone, spec.protocol)
    return _kept["task"][1]


def backbone_for(spec: RunSpec, num_labels: int) -> nn.Module:
    """The pretrained backbone with a head for `num_labels`, on the CPU, in float32, in eval mode."""
    key = (spec.backbone, num_labels)
    if "backbone" in _kept and _kept["backbone"][0] == key:
        model = _kept.pop("backbone")[1]  # put back by `keep_backbone` after an orderly run only
        log.info("backbone kept from the run before")
        return model
    _kept.pop("backbone", None)
    _loaded.append("backbone")
    return backbones.load(spec.backbone, num_labels)


def keep_backbone(spec: RunSpec, num_labels: int, model: nn.Module) -> None:
    """Keep an unwrapped float32 backbone for the next run.

    One in another precision has lost bits, and one that method `full` trained is another: they are let go.
    """
    if spec.adapter.method == "full":
        return
    if attached_adapter(model) is None and all(p.dtype == torch.float32 for p in model.parameters()):
        _kept["backbone"] = (spec.backbone, num_labels), model.to("cpu").eval()


def settle() -> None:
    """Spare the garbage collector what outlives runs: imported modules, and what was just loaded.

    Accelerate collects at the end of every run, and walking over all of it took a third of a very short run. What is
    loaded next makes all of it collectable again, so that nothing of an earlier backbone stays.
    """
    if _loaded:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        _loaded.clear()


def forget() -> None:
    """Let go of everything."""
    _kept.clear()
    gc.unfreeze()
