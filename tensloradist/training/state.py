"""A run's training state: what it is trained with, where it stands, and the one list of what a checkpoint holds."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tensloradist.errors import UserError
from tensloradist.results.schema import Fingerprints
from tensloradist.training.order import Indices, epoch_batches

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim.lr_scheduler import LambdaLR

    from tensloradist.adapter import Adapter
    from tensloradist.backbones import Family
    from tensloradist.spec import RunSpec
    from tensloradist.tasks.base import LoadedTask
    from tensloradist.throughput import Communication
    from tensloradist.training.frozen import HashedWeights
    from tensloradist.training.prediction import EvaluationPasses
    from tensloradist.training.records import Scores
    from tensloradist.training.strategy import Strategy

log = logging.getLogger(__name__)
_BEST, _PREDICTIONS = "best.", "predictions."  # prefixes among a state's `progress`


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """A training state as plain values and whole tensors, by the unwrapped model's names, whatever strategy wrote them.

    Attributes:
        values: fit for JSON.
        weights: trainable parameter -> value.
        optimizer: '<parameter>.<moment>' -> value.
        progress: random states and running losses (a row for each process), update times, best weights, predictions.
        folder: the checkpoint that it was read from, if any.
    """

    values: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    progress: dict[str, Tensor]
    folder: Path | None = None

    def check(self, run_id: str, fingerprints: Fingerprints) -> None:
        """Raise UserError if the state is that of another run, or of other data."""
        for name, value in {"run_id": run_id, "fingerprints": fingerprints.model_dump()}.items():
            if self.values[name] != value:
                raise UserError(
                    f"{self.folder}: {name} is {self.values[name]!r}, this run's is {value!r}; remove the checkpoint"
                )

    @torch.no_grad()
    def copy_weights(self, model: nn.Module) -> None:
        """Copy the weights into a model that is not wrapped or sharded yet.

        Parameters on the meta device are left out: the first process sends them.
        """
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not parameter.is_meta:
                parameter.copy_(self.weights[name])


class Stopwatch:
    """Seconds spent within its context, the span in progress included."""

    def __init__(self) -> None:
        self._earlier = 0.0
        self._began: float | None = None

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._earlier, self._began = self.seconds, None

    @property
    def seconds(self) -> float:
        return self._earlier + (time.perf_counter() - self._began if self._began is not None else 0.0)

    def resume(self, seconds: float) -> None:
        """Count on from what an earlier attempt has spent."""
        self._earlier = seconds


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is trained with: made by `build`, and not replaced afterwards.

    Attributes:
        model: as it is called, wrapped by the strategy.
        frozen: the backbone's weights in the run's precision before training; None on a process without weights.
        first_batches: the first epoch's batches, over all processes.
        adapter_parameters, trainable_parameters: counted before the model is sharded.
    """

    spec: RunSpec
    task: LoadedTask
    strategy: Strategy
    family: Family
    adapter: Adapter
    model: nn.Module
    schedule: LambdaLR
    frozen: HashedWeights | None
    fingerprints: Fingerprints
    first_batches: list[Indices]
    adapter_parameters: int
    trainable_parameters: int

    def batches(self, epoch: int) -> list[Indices]:
        """The epoch's batches (0-based), over all processes."""
        if epoch == 0:
            return self.first_batches
        return batches_of(self.spec, self.task, epoch)


def batches_of(spec: RunSpec, task: LoadedTask, epoch: int) -> list[Indices]:
    """The epoch's batches (0-based) of a run of this spec on this task's training part."""
    return epoch_batches(len(task.train), spec.optimizer.batch_size, spec.seed, epoch, task.train.lengths)


@dataclass(kw_only=True)
class TrainState:
    """A run in progress.

    Attributes:
        step: updates done.
        epoch, position: the epoch in progress (0-based), and the updates done in it.
        total_loss: of the epoch's examples so far, on this process.
        best_weights: the trainable parameters at the epoch that was best on validation.
        history: the records of the epochs done.
        data_wait_seconds: seconds in which the device waited for data.
        step_seconds: of each update.
        not_exact: why the result may differ from an uninterrupted run's by more than rounding.
        evaluation, communication: this process's own, and in no checkpoint.
    """

    parts: Parts
    scores: Scores
    total_loss: Tensor
    evaluation: EvaluationPasses
    communication: Communication
    step: int = 0
    epoch: int = 0
    position: int = 0
    best_weights: list[Tensor] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    train_time: Stopwatch = field(default_factory=Stopwatch)
    evaluate_time: Stopwatch = field(default_factory=Stopwatch)
    data_wait_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)
    not_exact: list[str] = field(default_factory=list)

    @property
    def spec(self) -> RunSpec:
        return self.parts.spec

    @property
    def accelerator(self) -> Accelerator:
        return self.parts.strategy.accelerator

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self.spec.optimizer.epochs * len(self.parts.first_batches)

    def state_dict(self) -> StateDict:
        """Everything that a later attempt needs to go on to the same bits; all processes call it together."""
        strategy, accelerator = self.parts.strategy, self.accelerator
        weights = dict(zip(strategy.parameters, strategy.weights(), strict=True))
        progress = {name: accelerator.gather(value.unsqueeze(0)) for name, value in self._own().items()}
        progress["step_seconds"] = torch.tensor(self.step_seconds, dtype=torch.float64)
        if self.best_weights is not None:
            best = zip(strategy.parameters, self.best_weights, strict=True)
            progress |= {_BEST + name: value for name, value in best}
        for split, logits in self.scores.predictions.items():
            progress[_PREDICTIONS + split] = torch.from_numpy(np.ascontiguousarray(logits))
        schedule = self.parts.schedule
        values = {
            "run_id": self.spec.run_id,
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "processes": accelerator.num_processes,
            "micro_batch": self.spec.compute.micro_batch,
            "schedule": {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"},
            "rates": [group["lr"] for group in schedule.optimizer.param_groups],
            "validation": {str(epoch): metrics for epoch, metrics in self.scores.validation.items()},
            "best_epoch": self.scores.best_epoch,
            "history": self.history,
            "train_seconds": self.train_time.seconds,
            "evaluate_seconds": self.evaluate_time.seconds,
            "data_wait_seconds": self.data_wait_seconds,
            "fingerprints": self.parts.fingerprints.model_dump(),
            "not_exact": self.not_exact,
        }
        return StateDict(values=values, weights=weights, optimizer=strategy.moments(), progress=progress)

    @torch.no_grad()
    def load_state_dict(self, saved: StateDict) -> None:
        """Bring a state that `build` has just made, with the saved weights, to the rest of the saved state."""
        values, progress, parts = saved.values, saved.progress, self.parts
        parts.strategy.set_moments(saved.optimizer)
        for group, rate in zip(parts.schedule.optimizer.param_groups, values["rates"], strict=True):
            group["lr"] = rate
        parts.schedule.load_state_dict({**values["schedule"], "lr_lambdas": [None] * len(values["rates"])})
        self.step = values["step"]
        self.epoch = values["epoch"]
        self.position = values["position"]
        self.scores.validation = {int(epoch): metrics for epoch, metrics in values["validation"].items()}
        self.scores.best_epoch = values["best_epoch"]
        self.scores.predictions = {
            name.removeprefix(_PREDICTIONS): value.numpy()
            for name, value in progress.items()
            if name.startswith(_PREDICTIONS)
        }
        if any(name.startswith(_BEST) for name in progress):
            names, device = parts.strategy.parameters, self.accelerator.device
            self.best_weights = [progress[_BEST + name].to(device) for name in names]
        # An epoch that was being evaluated is evaluated again.
        self.history = [record for record in values["history"] if record["epoch"] <= self.epoch]
        self.train_time.resume(values["train_seconds"])
        self.evaluate_time.resume(values["evaluate_seconds"])
        self.data_wait_seconds = values.get("data_wait_seconds", 0.0)  # not recorded by earlier versions
        self.step_seconds = progress["step_seconds"].tolist()
        self.not_exact = list(values.get("not_exact", []))
        micro_batch = self.spec.compute.micro_batch
        if values.get("micro_batch", micro_batch) != micro_batch and self._has_drawn(progress):
            self._mark_not_exact(f"resumed with micro_batch {micro_batch} after {values['micro_batch']}")
        self._load_own(progress, values["processes"])

    def _own(self) -> dict[str, Tensor]:
        """This process's random states and running loss."""
        device = self.accelerator.device
        own = {"rng.cpu": torch.get_rng_state().to(device), "total": self.total_loss.reshape(1)}
        if device.type == "cuda":
            own["rng.cuda"] = torch.cuda.get_rng_state(device).to(device)
        return own

    def _load_own(self, progress: dict[str, Tensor], processes: int) -> None:
        """Load this process's random states and running loss; with another number of processes, start new ones."""
        index, device = self.accelerator.process_index, self.accelerator.device
        if processes != self.accelerator.num_processes:
            total = progress["total"].sum() if index == 0 else torch.zeros(())
            self.total_loss = total.reshape(()).to(device)
            if self._has_drawn(progress):
                self._mark_not_exact(f"resumed on {self.accelerator.num_processes} processes after {processes}")
            torch.manual_seed(self.spec.seed * 1_000 + index + self.step)
            return
        self.total_loss = progress["total"][index].reshape(()).to(device)
        torch.set_rng_state(progress["rng.cpu"][index].clone())  # cloned, since a row of it is not accepted
        if "rng.cuda" in progress and device.type == "cuda":
            torch.cuda.set_rng_state(progress["rng.cuda"][index].clone(), device)

    def _has_drawn(self, progress: dict[str, Tensor]) -> bool:
        """Whether training has drawn random numbers: whether the first process's generators left their seed's state."""
        torch.manual_seed(self.spec.seed * 1_000)
        fresh = {"rng.cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            fresh["rng.cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        return any(not torch.equal(fresh[name], progress[name][0]) for name in fresh if name in progress)

    def _mark_not_exact(self, reason: str) -> None:
        self.not_exact.append(f"{reason}, with dropout")
        log.warning("not exact: %s, with dropout: it goes on, but with other random draws", reason)
