"""What a warm process keeps between runs: the last backbone and the last task's data, which cost more than many runs.

The backbone is kept as it was loaded, on the CPU. A run trains a copy of its modules, which shares the frozen weights
if the run computes on the CPU in their precision, and has copies of them in bf16 or on a GPU. This costs a worker four
bytes of host memory a weight for as long as it lives, and lets a run in bf16 or on a GPU start as fast as one in fp32
on the CPU. Only one of each is kept, so that memory does not grow over a queue of runs.
"""

from __future__ import annotations

import copy
import gc
import logging
from typing import Any

from torch import nn

from tensloradist import backbones, tasks
from tensloradist.backbones import family_of
from tensloradist.backbones.task_head import head_parameters
from tensloradist.spec import RunSpec
from tensloradist.training import frozen

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
    """The pretrained backbone with a head for `num_labels`, on the CPU, in float32 or quantised, in eval mode."""
    key = (spec.backbone, num_labels)
    if "backbone" in _kept and _kept["backbone"][0] == key:
        model = _kept.pop("backbone")[1]  # only an orderly run puts it back, by `keep_backbone`
        log.info("backbone kept from the run before")
        return model
    _kept.pop("backbone", None)
    frozen.forget()
    _loaded.append("backbone")
    return backbones.load(spec.backbone, num_labels)


def working_copy(model: nn.Module) -> nn.Module | None:
    """A model for one run to train, with modules and a head of its own and the same memory for the frozen weights.

    The run may change anything but a frozen weight in place, which `frozen` would detect at its end. Quantised weights
    are copied, since their layers convert them as they compute.

    Returns:
        None for a model that cannot be copied faithfully, such as a plugin's with functions that refer to its own
        modules, or with something that Python does not copy.
    """
    if _refers_to_itself(model):
        log.info("the backbone has functions that refer to its own modules: the next run loads it anew")
        return None
    own = {id(parameter) for parameter in head_parameters(model, family_of(model).head(model)).values()}
    shared: dict[int, nn.Parameter] = {}
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and id(parameter) not in own:
            shared[id(parameter)] = new = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
            vars(new).update(vars(parameter))  # marks of the library that loaded it
    try:
        return copy.deepcopy(model, shared)
    except (RuntimeError, TypeError) as error:  # a tensor that was computed; a lock or a file
        log.info("the backbone cannot be copied, and the next run loads it anew: %s", error)
        return None


def _refers_to_itself(model: nn.Module) -> bool:
    for module in model.modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if "forward" in vars(module) or any(getattr(hook, "__closure__", None) for hook in hooks):
            return True
    return False


def keep_backbone(spec: RunSpec, num_labels: int, model: nn.Module) -> None:
    """Keep a backbone from `backbone_for`, of which a run trained a working copy, for the next run."""
    _kept["backbone"] = (spec.backbone, num_labels), model


def settle() -> None:
    """Exempt from garbage collection what outlives runs: imported modules, and what was just loaded.

    Accelerate collects at the end of every run, and traversing all of it took a third of a very short run. The next
    load makes all of it collectable again, so that nothing of an earlier backbone remains.
    """
    if _loaded:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        _loaded.clear()


def forget() -> None:
    """Release everything."""
    _kept.clear()
    frozen.forget()
    gc.unfreeze()
