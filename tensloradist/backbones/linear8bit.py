"""The linear layer of LLM.int8 (arXiv 2208.07339) whose scales follow its weight from device to device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitsandbytes.nn import Linear8bitLt
from torch import Tensor


class Linear8bit(Linear8bitLt):
    """bitsandbytes' layer, made safe for models that are moved to another device.

    It keeps the int8 weight and its scales a second time (`CB`, `SCB`): in its parameter before the first pass, and in
    its `state` afterwards. When a model is moved, torch replaces the data of each parameter, but not those copies.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The library's output, without the input that it keeps for the gradient of the weight.

        A frozen weight has no gradient, and activation checkpointing could not free that input.
        """
        output: Tensor = super().forward(x)
        node: Any = output.grad_fn
        if not self.weight.requires_grad:
            if type(node).__name__ == "MatMul8bitLtBackward":
                node.tensors = (None, None, None)
            elif type(node).__name__ == "MatMul8bitFpBackward":  # of CPUs
                node.A = None
        return output

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linear8bit:
        super()._apply(fn, recurse)
        owners: tuple[Any, Any] = (self.weight, self.state)
        for owner in owners:
            if owner.CB is not None:
                owner.CB = self.weight.data  # one storage, as in the library
                owner.SCB = owner.SCB.to(self.weight.device)
        return self
