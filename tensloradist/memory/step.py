"""One training step on tensors without data: how many bytes its parameters hold, and its activations at their peak.

The run's own backbone, adapter and a batch of its own data pass forward and backward under torch's FakeTensorMode, as
on a CPU or by CUDA's rules; every storage is counted from its first operation until nothing refers to it any more.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tensloradist import backbones, tasks
from tensloradist.adapter import attach
from tensloradist.dataless import autocast, empty_like, fill, forward_and_backward
from tensloradist.memory.cuda_rules import cuda_rules
from tensloradist.spec import RunSpec
from tensloradist.tasks.base import LoadedTask, SplitData
from tensloradist.training.blocks import blocks, recompute
from tensloradist.training.prediction import evaluation_batch

FULL = 4  # bytes of a float32
# `training.batches` has one in use there, one ready, and one that is copied before the first is let go; memory of its
# own stream is not given to the one that computes.
BATCHES_ON_GPU = 3


@dataclass(frozen=True)
class StepBytes:
    """What one process holds in a training step without sharding.

    Attributes:
        frozen: bytes of the backbone's parameters, as they are kept while training (bf16: two each; quantised: less).
        trainable: number of the parameters that are trained, adapter and head; they are float32.
        largest: bytes of the largest layer's own parameters, frozen or not: what ZeRO-3 gathers at once.
        buffers: bytes of the model's buffers and of the batches that are there at once: three on a GPU, else one.
        activations: bytes beyond all of these at the peak of training and of evaluation, whichever is higher.
        loaded: bytes of the whole model in float32, as it is when loaded, before it is moved to an accelerator.
        device: whose rules decide what the step keeps: cpu or cuda.
        frozen_itemsize: bytes of an element of the backbone's parameters, quantised or not.
    """

    frozen: int
    trainable: int
    largest: int
    buffers: int
    activations: int
    loaded: int
    device: Literal["cpu", "cuda"] = "cpu"
    frozen_itemsize: int = FULL


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations within make, while they live, and their peak.

    Args:
        there: tensors that exist already and do not count.
    """

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        for tensor in there:
            storage = tensor.untyped_storage()
            self._seen[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: object) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def measure_step(
    spec: RunSpec,
    micro_batch: int,
    activation_checkpointing: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
) -> StepBytes:
    """The bytes of one pass over the longest `micro_batch` training examples of the run's data, which is loaded.

    Args:
        device: what the step is planned for; neither a GPU nor a build of torch for CUDA is needed.

    Raises:
        UserError: the data or the backbone's configuration cannot be read, or they do not fit.
    """
    task = tasks.load(spec.task, spec.backbone, spec.protocol)
    model = backbones.empty(spec.backbone, task.num_labels)
    loaded = sum(parameter.numel() for parameter in model.parameters()) * FULL
    adapter = attach(model, spec.adapter, spec.seed)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen_dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    sizes = _quantised_bytes(model, spec.backbone.quantization)
    if spec.backbone.quantization == "nf4" or device == "cuda":
        for name in sizes:
            model.get_submodule(name.removesuffix(".weight")).register_forward_hook(_in_type_of_input)
    batches = BATCHES_ON_GPU if device == "cuda" else 1
    frozen = sum(
        sizes.get(name, p.numel() * frozen_dtype.itemsize)
        for name, p in model.named_parameters()
        if not p.requires_grad
    )
    batch, labels = _longest(task, micro_batch)  # read before tensors lose their data
    evaluated = _evaluated(task, evaluation_batch(spec.compute))
    with cuda_rules() if device == "cuda" else nullcontext(), FakeTensorMode():
        fill(model, frozen_dtype)
        inputs = empty_like(batch)
        labels = torch.empty(labels.shape, dtype=labels.dtype)
        if activation_checkpointing:
            recompute(blocks(model, backbones.family_of(model)), adapter)
        model.train()
        held = [*model.buffers(), *inputs.values(), labels]
        training = LiveBytes([*model.parameters(), *held])
        with training:
            forward_and_backward(model, task.num_labels, task.regression, inputs, labels, spec.precision)
        model.eval()
        some = empty_like(evaluated)
        evaluation = LiveBytes([*model.parameters(), *model.buffers()])
        with evaluation, torch.no_grad(), autocast(spec.precision):
            backbones.family_of(model).logits(model, some)
    adapter.detach()
    return StepBytes(
        frozen=frozen,
        trainable=trainable,
        largest=max(_own_bytes(module, frozen_dtype) for module in model.modules()),
        buffers=_bytes(model.buffers()) + batches * _bytes([*inputs.values(), labels]),
        activations=max(training.peak, evaluation.peak),
        loaded=loaded,
        device=device,
        frozen_itemsize=frozen_dtype.itemsize,
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _order(split: SplitData) -> np.ndarray:
    return np.arange(len(split)) if split.lengths is None else np.argsort(-split.lengths, kind="stable")


def _evaluated(task: LoadedTask, size: int) -> dict[str, Tensor]:
    """The inputs of an evaluation's largest batch, of `size` examples at most."""
    split = max(task.validation, task.test, key=lambda s: (min(len(s), size), _width(s)))
    return split.batch(_order(split)[:size], None)


def _width(split: SplitData) -> int:
    return 0 if split.lengths is None else int(split.lengths.max())


def _longest(task: LoadedTask, examples: int) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs and labels of the longest training examples, of any where all are equally long."""
    chosen = np.resize(_order(task.train)[:examples], examples)
    return task.train.batch(chosen, None), torch.from_numpy(np.ascontiguousarray(task.train.labels[chosen]))


def _own_bytes(module: nn.Module, frozen_dtype: torch.dtype) -> int:
    return sum(
        p.numel() * (FULL if p.requires_grad else frozen_dtype.itemsize)
        for p in module._parameters.values()
        if p is not None
    )


def _in_type_of_input(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """As quantised layers answer, whatever autocast says; those of 8 bits on a CPU follow autocast."""
    return output.to(given[0].dtype)


# int8: a byte each, and a float32 scale for each output; nf4: half a byte, and a float32 scale for each 64.
def _quantised_bytes(model: nn.Module, quantization: str | None) -> dict[str, int]:
    """Bytes of the quantised weights, by their parameters' names."""
    if quantization is None:
        return {}
    kept = tuple(f"{path}." for path in (*backbones.family_of(model).head(model), "lm_head"))
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and not f"{path}.".startswith(kept):
            elements = module.weight.numel()
            each = elements + FULL * module.out_features if quantization == "int8" else elements // 2 + elements // 16
            found[f"{path}.weight"] = each
    return found
