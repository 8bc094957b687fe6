"""ZeRO-1, 2 and 3 through Accelerate and DeepSpeed: sharded optimiser state, gradients and weights.

The model is called through a root module of ours, so that DeepSpeed's hooks surround the adapter's. Two silent
defaults of DeepSpeed are avoided: it clips gradients by default, and its bf16 would cast trainable weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from tensloradist.adapter import Adapter
from tensloradist.errors import UserError
from tensloradist.training.provenance import available_memory
from tensloradist.training.strategy import Strategy

if TYPE_CHECKING:
    from tensloradist.spec import RunSpec

_STATE_BYTES = 12  # an element's two moments and its copy in float32
_STATES = ("exp_avg", "exp_avg_sq")


class Zero(Strategy):
    """One of ZeRO's stages: 1 shards the optimiser's state, 2 the gradients too, 3 all weights, frozen ones too."""

    def __init__(self, spec: RunSpec, accelerator: Accelerator) -> None:
        super().__init__(spec, accelerator)
        self.stage = spec.compute.zero_stage
        self.config: dict[str, Any] = accelerator.deepspeed_plugin.deepspeed_config
        # DeepSpeed divides by the passes of a full update, even if an epoch's last update has fewer.
        self.loss_factor *= self.config["gradient_accumulation_steps"]
        self.holds_weights = self.stage < 3 or accelerator.is_main_process
        if self.stage == 3:
            _return_freed_memory()

    def agreed(self, value: Any) -> Any:
        if self.stage < 3:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0, device=self.accelerator.device)
        return shared[0]

    def shard(self, model: nn.Module) -> None:
        """Stage 3: each parameter is sent to all processes and cut into its shards, one after another.

        All processes but the first start with a model on the meta device, and never hold more than their shards and
        one tensor.
        """
        self._check_room(model)
        if self.stage < 3:
            super().shard(model)
            return
        sharded: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    if id(parameter) not in sharded:  # a tied one is one parameter
                        sharded[id(parameter)] = new = self._materialized(parameter)
                        self._shard_one(new)
                        sharded[id(new)] = new
                    module._parameters[name] = sharded[id(parameter)]
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = self._sent(buffer)

    def _check_room(self, model: nn.Module) -> None:
        """Check that this node's shards of the weights and of the optimiser's state fit, if they are on the CPU.

        Raises:
            UserError: they do not fit.
        """
        on_cpu, offload = self.accelerator.device.type == "cpu", self.spec.compute.offload
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        total = 0
        if self.stage == 3 and (on_cpu or offload == "cpu"):
            total += sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        if on_cpu or offload != "none":
            total += sum(
                _STATE_BYTES * parameter.numel() for parameter in model.parameters() if parameter.requires_grad
            )
        needed, free = total * local // self.accelerator.num_processes, available_memory()
        # The first process of a node checks for all of them; the very first has its copy of the weights already.
        if int(os.environ.get("LOCAL_RANK", "0")) == 0 and free is not None and needed > free:
            raise UserError(
                f"compute.offload: {offload}: what {local} of the {self.accelerator.num_processes} processes shard "
                f"takes {needed / 2**30:.1f} GiB of memory here, and {free / 2**30:.1f} GiB are free; use more "
                "nodes, precision bf16, or offload: none on GPUs"
            )

    def _materialized(self, parameter: nn.Parameter) -> nn.Parameter:
        if not parameter.is_meta:
            return parameter
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.accelerator.device)
        return nn.Parameter(empty, requires_grad=parameter.requires_grad)

    def _sent(self, buffer: Tensor) -> Tensor:
        device = self.accelerator.device
        own = torch.empty(buffer.shape, dtype=buffer.dtype, device=device) if buffer.is_meta else buffer.to(device)
        own = own.contiguous()
        if own.numel():
            dist.broadcast(own.view(torch.uint8) if own.dtype == torch.bool else own, 0)
        return own

    def _shard_one(self, parameter: nn.Parameter) -> None:
        import deepspeed

        deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=self.config)

    def prepare(
        self, model: nn.Module, adapter: Adapter, optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
    ) -> nn.Module:
        root = _Root(model, self.accelerator.device.type if self.spec.precision == "bf16" else None)
        engine = super().prepare(root, adapter, optimizer, named)
        self._zero: Any = engine.optimizer
        if self.stage == 3:
            import deepspeed

            # They are read together at the start of the root's forward pass, not by the modules that own them.
            for parameter in adapter.parameters():
                deepspeed.zero.register_external_parameter(root, parameter)
        return engine

    @contextlib.contextmanager
    def pass_(self, is_last: bool) -> Iterator[None]:
        """Accelerate tells DeepSpeed with each backward pass whether the update follows."""
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        yield

    def update(self) -> None:
        """Do nothing: DeepSpeed clips, steps and zeroes in the last backward pass of an update."""

    @torch.no_grad()
    def weights(self) -> list[Tensor]:
        with self.whole(list(self.parameters.values())):
            return super().weights()

    @torch.no_grad()
    def set_weights(self, values: Sequence[Tensor]) -> None:
        with self._gathered(list(self.parameters.values()), modifier_rank=0):
            super().set_weights(values)

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
        return self._gathered(parameters)

    def _gathered(self, parameters: Sequence[nn.Parameter], modifier_rank: int | None = None) -> Any:
        import deepspeed
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        sharded: list[Any] = list(parameters)
        # After a forward pass without a backward pass, the weights that the latter would need first are still being
        # fetched; those can be neither gathered nor released.
        if self.stage == 3 and any(parameter.ds_status is ZeroParamStatus.INFLIGHT for parameter in sharded):
            self._zero.empty_partition_cache()
        return deepspeed.zero.GatheredParameters(sharded, modifier_rank=modifier_rank, enabled=self.stage == 3)

    def _flat_parameters(self) -> list[Tensor]:
        """This process's part of the trainable weights in float32, a flat tensor a group: what the optimiser sees."""
        zero = self._zero
        flat: list[Tensor] = (
            zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        )
        return flat

    def moments(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self._zero.optimizer.state
        if not any(flat in state for flat in self._flat_parameters()):
            return {}  # before the first update
        self._link()
        steps = next(state[flat]["step"] for flat in self._flat_parameters() if flat in state)
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for moment in _STATES:
                found[f"{name}.{moment}"] = safe_get_full_optimizer_state(parameter, moment).reshape(
                    self._shape(parameter)
                )
            found[f"{name}.step"] = steps.detach().clone()
        return found

    def set_moments(self, values: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not values:
            return
        steps = next(value for name, value in values.items() if name.endswith(".step"))
        for flat in self._flat_parameters():
            empty = {moment: torch.zeros_like(flat) for moment in _STATES}
            self._zero.optimizer.state[flat] = {**empty, "step": steps.detach().clone().to(flat.device)}
        self._link()
        sharded: Mapping[str, Any] = self.parameters  # with DeepSpeed's own attributes
        for name, parameter in sharded.items():
            for moment in _STATES:
                value = values[f"{name}.{moment}"].to(self.accelerator.device)
                if self.stage == 3:
                    # The setter for whole tensors fails for those with fewer elements than there are processes.
                    size = parameter.ds_tensor.numel()
                    padded = torch.zeros(size * self.accelerator.num_processes, dtype=value.dtype, device=value.device)
                    padded[: value.numel()] = value.flatten()
                    mine = padded.narrow(0, size * self.accelerator.process_index, size)
                    safe_set_local_optimizer_state(parameter, mine, moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def _link(self) -> None:
        """Make the links by which stages 1 and 2 find a parameter's moments; DeepSpeed makes them at the first step."""
        if self.stage < 3:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _shape(self, parameter: Any) -> torch.Size:
        shape: torch.Size = parameter.ds_shape if self.stage == 3 else parameter.shape
        return shape


class _Root(nn.Module):
    """The model as DeepSpeed's engine calls it: in bf16 under autocast, which the engine itself would switch off."""

    def __init__(self, model: nn.Module, autocast_on: str | None) -> None:
        super().__init__()
        self.model, self._autocast_on = model, autocast_on

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._autocast_on is None:
            return self.model(*args, **kwargs)
        with torch.autocast(self._autocast_on, torch.bfloat16):
            return self.model(*args, **kwargs)


def _return_freed_memory() -> None:
    """Let glibc return large freed blocks to the system at once.

    glibc raises its threshold for this whenever a large block, such as gathered weights, is freed, and the process
    would keep what ZeRO-3 releases. Other C libraries have no such call.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD
