"""One training step on tensors without data: the bytes of its parameters, and of its activations at their peak.

The run's backbone and adapter process a batch of its data forward and backward under torch's FakeTensorMode, by the
rules of a CPU or of CUDA. Every storage counts from its first operation until nothing refers to it.
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
# `training.batches` keeps one batch in use, one ready, and one being copied before the first is freed: the compute
# stream does not reuse the memory of the copy stream.
BATCHES_ON_GPU = 3


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """What one process holds in a training step without sharding.

    Attributes:
        frozen: bytes of the backbone's parameters during training (bf16: two each; quantised: fewer).
        trainable: number of trained parameters, adapter and head, which are float32.
        largest: bytes of the largest layer's own parameters, frozen or not, which ZeRO-3 gathers at once.
        buffers: bytes of the model's buffers and of the batches held at once: three on a GPU, else one.
        activations: bytes beyond these at the peak of training or evaluation, whichever is higher.
        loaded: bytes of the whole model in float32 as loaded, before it moves to an accelerator.
        device: the device whose rules decide what the step keeps, cpu or cuda.
        frozen_itemsize: bytes per element of the backbone's parameters before quantisation.
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
    """Count the live bytes of storages made by the operations within this mode, and their peak.

    Args:
        existing: tensors that do not count.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        for tensor in existing:
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

        def freed(_: object) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


def measure_step(
    spec: RunSpec,
    micro_batch: int,
    activation_checkpointing: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
) -> StepBytes:
    """The bytes of one pass over the run's longest `micro_batch` training examples. Loads the run's data.

    Args:
        device: the device to plan for; this needs neither a GPU nor a CUDA build of torch.

    Raises:
        UserError: the data or the backbone's configuration is unreadable, or the two do not fit together.
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
    batch, labels = _longest(task, micro_batch)  # read before FakeTensorMode
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
    """The inputs of the largest evaluation batch, with at most `size` examples."""
    split = max(task.validation, task.test, key=lambda s: (min(len(s), size), _width(s)))
    return split.batch(_order(split)[:size], None)


def _width(split: SplitData) -> int:
    return 0 if split.lengths is None else int(split.lengths.max())


def _longest(task: LoadedTask, examples: int) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs and labels of the longest training examples; of any examples if all are equally long."""
    chosen = np.resize(_order(task.train)[:examples], examples)
    return task.train.batch(chosen, None), torch.from_numpy(np.ascontiguousarray(task.train.labels[chosen]))


def _own_bytes(module: nn.Module, frozen_dtype: torch.dtype) -> int:
    return sum(
        p.numel() * (FULL if p.requires_grad else frozen_dtype.itemsize)
        for p in module._parameters.values()
        if p is not None
    )


def _in_type_of_input(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the input's type as quantised layers do, regardless of autocast (except 8-bit layers on a CPU)."""
    return output.to(given[0].dtype)


def _quantised_bytes(model: nn.Module, quantization: str | None) -> dict[str, int]:
    """Name of a quantised parameter -> its bytes.

    int8 takes a byte per weight and a float32 scale per output; nf4 half a byte and a float32 scale per 64 weights.
    """
    if quantization is None:
        return {}
    kept = tuple(f"{path}." for path in (*backbones.family_of(model).head(model), "lm_head"))
    sizes = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and not f"{path}.".startswith(kept):
            elements = module.weight.numel()
            each = elements + FULL * module.out_features if quantization == "int8" else elements // 2 + elements // 16
            sizes[f"{path}.weight"] = each
    return sizes
