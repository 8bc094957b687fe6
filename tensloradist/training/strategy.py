"""How a run's model, gradients and optimiser are distributed over its processes.

`Strategy` is one process or DDP, where every process holds everything; `zero.Zero` is DeepSpeed's ZeRO-1, 2 and 3.
Sharded tensors enter and leave a strategy whole and under the names of the unwrapped model, so that a checkpoint fits
every strategy and number of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tensloradist.adapter import Adapter
from tensloradist.backbones.quantization import check_kernels
from tensloradist.fingerprint import checksum

if TYPE_CHECKING:
    from tensloradist.spec import RunSpec
    from tensloradist.training.order import MicroBatch

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Strategy:
    """One process, or DDP: every process holds all weights and all of the optimiser's state.

    Attributes:
        loss_factor: what a process's loss, a sum over all processes' examples, is multiplied by before its backward
            pass, since gradients are averaged over processes.
        holds_weights: whether this process loads the backbone's weights; otherwise `shard` sends them.
    """

    holds_weights = True

    def __init__(self, spec: RunSpec, accelerator: Accelerator) -> None:
        self.spec, self.accelerator = spec, accelerator
        self.loss_factor = accelerator.num_processes

    def shard(self, model: nn.Module) -> None:
        """Move the model to its device, and shard its weights if the strategy does so."""
        model.to(self.accelerator.device)

    def check_coverage(self, total: int, micros: Sequence[MicroBatch], examples: int) -> None:
        """Assert that all processes together have seen `examples` of `total` examples, each once.

        Args:
            micros: what this process has computed.

        Raises:
            RuntimeError: the data was not divided correctly.
        """
        if self.accelerator.num_processes == 1:
            return
        seen = torch.zeros(total, dtype=torch.int32, device=self.accelerator.device)
        for micro in micros:
            seen[torch.from_numpy(micro.indices[micro.weights > 0])] += 1
        torch.distributed.all_reduce(seen)
        if int(seen.sum()) != examples or int(seen.max()) > 1:
            raise RuntimeError(
                f"the processes saw {int(seen.sum())} examples instead of {examples}, one {int(seen.max())} times"
            )

    def agreed(self, value: Any) -> Any:
        """The first process's value, if other processes have no weights to compute it from."""
        return value

    def prepare(
        self, model: nn.Module, adapter: Adapter, optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
    ) -> nn.Module:
        """The wrapped model, to be called from now on.

        Args:
            named: the trainable parameters by their names in the model.

        Raises:
            UserError: the device's kernels do not support a quantised layer.
        """
        self.parameters = dict(named)
        self._raw_optimizer = optimizer
        prepared, self._optimizer = self.accelerator.prepare(model, optimizer)
        if self.spec.backbone.quantization is not None:
            check_kernels(model, self.spec.backbone.quantization, self.spec.precision)
        self._model: nn.Module = prepared
        return prepared

    def pass_(self, is_last: bool) -> AbstractContextManager[Any]:
        """A context for the forward and backward pass of one micro-batch; `is_last`: the update follows."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(self._model)

    def update(self) -> None:
        """Clip the gradients as the spec says, take the optimiser's step, and zero the gradients."""
        if self.spec.optimizer.gradient_clipping:
            self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.spec.optimizer.gradient_clipping)
        self._optimizer.step()
        self._optimizer.zero_grad()

    @torch.no_grad()
    def weights(self) -> list[Tensor]:
        """Copies of the trainable parameters, whole, on every process."""
        return [parameter.detach().clone() for parameter in self.parameters.values()]

    @torch.no_grad()
    def set_weights(self, values: Sequence[Tensor]) -> None:
        """Replace the trainable parameters, for an evaluation."""
        for parameter, value in zip(self.parameters.values(), values, strict=True):
            parameter.copy_(value)

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's state, '<parameter>.<moment>' -> tensor, whole, on every process."""
        state = self._raw_optimizer.state
        return {
            f"{name}.{moment}": state[parameter][moment]
            for name, parameter in self.parameters.items()
            for moment in MOMENTS
            if parameter in state
        }

    def set_moments(self, values: Mapping[str, Tensor]) -> None:
        """Restore the state that `moments` returned."""
        for name, parameter in self.parameters.items():
            if f"{name}.step" in values:
                device = parameter.device
                self._raw_optimizer.state[parameter] = {m: values[f"{name}.{m}"].to(device) for m in MOMENTS}

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
        """A context in which these parameters are whole on every process; all processes enter it together."""
        return contextlib.nullcontext()

    def frozen_checksums(self, adapter: Adapter) -> dict[str, str]:
        """The first process's checksums of the frozen weights as they are now, whole and in the run's precision."""
        found = {}
        for name, parameter in adapter.require_attachment().frozen_parameters().items():
            with self.whole([parameter]):
                if self.accelerator.is_main_process:
                    found[name] = checksum(parameter)
        return found
