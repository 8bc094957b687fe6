"""From a spec, a task and a loaded backbone to a training state: head, adapter, precision, strategy, optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from tensloradist.adapter import attach
from tensloradist.backbones import family_of, initialize_head
from tensloradist.results.schema import Fingerprints
from tensloradist.throughput import Communication
from tensloradist.training.accelerator import in_precision
from tensloradist.training.blocks import blocks, compile_blocks, recompute
from tensloradist.training.frozen import hashed
from tensloradist.training.optimization import make_optimizer, make_schedule
from tensloradist.training.order import Indices, order_fingerprint
from tensloradist.training.prediction import EvaluationPasses
from tensloradist.training.records import Scores
from tensloradist.training.state import Parts, StateDict, TrainState, batches_of

if TYPE_CHECKING:
    from tensloradist.adapter import Adapter
    from tensloradist.backbones import Family
    from tensloradist.spec import RunSpec
    from tensloradist.tasks.base import LoadedTask
    from tensloradist.training.strategy import Strategy


def build(
    spec: RunSpec, task: LoadedTask, model: nn.Module, strategy: Strategy, saved: StateDict | None = None
) -> TrainState:
    """The state of a run before its first update, or, with a saved one's weights, before `load_state_dict`.

    Args:
        model: the backbone with its head, as it was loaded; it becomes the run's own.
        saved: copied into the model here, before anything is sharded and DeepSpeed makes its own copies.

    Raises:
        UserError: the saved state is another run's; an adapter, multiplier or quantisation that does not fit the model.
    """
    accelerator = strategy.accelerator
    family = family_of(model)
    head_hash = initialize_head(model, family, spec.seed) if strategy.holds_weights else ""
    adapter = attach(model, spec.adapter, spec.seed, family.head(model))
    frozen = hashed(adapter) if strategy.holds_weights else None
    first_batches = batches_of(spec, task, 0)
    found = _fingerprints(task, first_batches, head_hash, "" if frozen is None else frozen.digest)
    fingerprints: Fingerprints = strategy.agreed(found)
    if saved is not None:
        saved.check(spec.run_id, fingerprints)
        saved.copy_weights(model)
    if spec.precision == "bf16":
        in_precision(model, spec.precision)
        frozen = hashed(adapter) if accelerator.is_main_process else None
    adapter_parameters = adapter.num_parameters
    trainable_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    _change_blocks(spec, model, family, adapter, accelerator.device)
    strategy.shard(model)
    in_groups = {id(p) for group in adapter.parameter_groups().values() for p in group}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    head = [p for p in trained.values() if id(p) not in in_groups]
    optimizer = make_optimizer(adapter, head, spec.optimizer)
    parts = Parts(
        spec=spec,
        task=task,
        strategy=strategy,
        family=family,
        adapter=adapter,
        model=strategy.prepare(model, adapter, optimizer, trained),
        schedule=make_schedule(optimizer, spec.optimizer.epochs * len(first_batches), spec.optimizer),
        frozen=frozen,
        fingerprints=fingerprints,
        first_batches=first_batches,
        adapter_parameters=adapter_parameters,
        trainable_parameters=trainable_parameters,
    )
    return TrainState(
        parts=parts,
        scores=Scores(spec.protocol == "official", task.primary_metric, task.lower_is_better),
        total_loss=torch.zeros((), device=accelerator.device),
        evaluation=EvaluationPasses.of(spec.compute),
        communication=Communication(accelerator.num_processes, accelerator.device),
    )


def _fingerprints(task: LoadedTask, first_batches: Sequence[Indices], head: str, backbone: str) -> Fingerprints:
    return Fingerprints(
        data=task.data_fingerprint,
        split=task.split_fingerprint,
        head=head,
        data_order=order_fingerprint(task.train.ids, first_batches),
        backbone=backbone,
    )


def _change_blocks(spec: RunSpec, model: nn.Module, family: Family, adapter: Adapter, device: torch.device) -> None:
    """Compile the model's blocks, or let their backward pass recompute them, as `compute` says."""
    compute = spec.compute
    if not compute.compile and not compute.activation_checkpointing:
        return
    found = blocks(model, family)
    if compute.compile:
        compile_blocks(found, device)
    if compute.activation_checkpointing:
        recompute(found, adapter)
