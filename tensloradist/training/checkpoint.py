"""A run's whole state at a step boundary, captured into tensors and JSON, and restored to the bit.

Weights, the optimiser's moments, the schedule, every process's random state and running loss, the place within the
epoch, and what was measured so far. Tensors go to safetensors, the rest to JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor

from tensloradist.errors import UserError
from tensloradist.files import write_synced
from tensloradist.results.checkpoints import read_state, write_checkpoint
from tensloradist.results.control import Outnumbered, RunControl, Stopped
from tensloradist.results.schema import Fingerprints

if TYPE_CHECKING:
    from torch import nn

    from tensloradist.training.loop import Run

log = logging.getLogger("tensloradist")
REASONS = ("interrupted", "preempted", "time_limit", "cancelled")
_RECENT = 20  # updates whose median time says how long an update takes
_AGREE_SECONDS = 2.0  # between the processes' agreements on an accelerator, where each waits for the device


class Boundary:
    """What happens between two updates: checkpoints when they are due, and an end when the run is told to stop."""

    def __init__(self, run: Run, folder: Path, control: RunControl) -> None:
        self.run, self.folder, self.control = run, folder, control
        compute = run.spec.compute
        self._steps, self._seconds = compute.checkpoint_steps, compute.checkpoint_seconds
        self._last_time, self._last_step = time.monotonic(), run.step
        self._agree_at = run.step  # the update after which the processes agree next, the same on all of them

    def reached(self, within_evaluation: bool = False) -> None:
        """Between two updates, or two batches of an evaluation whose weights are those of the last update.

        Raises:
            Stopped: the run was told to; its checkpoint is written.
            Outnumbered: another worker has taken the run over.
        """
        due_here = not within_evaluation and self._is_due()
        reason, due, lost = self._agreed(self._reason(), due_here, within_evaluation)
        if reason is None and not due and not lost:
            return
        if lost:
            raise Outnumbered(f"another worker has taken this run over; it ends here, after update {self.run.step}")
        self.control.stopping = reason is not None
        save(self.run, self.folder)
        self._last_time, self._last_step = time.monotonic(), self.run.step
        if reason is not None:
            raise Stopped(reason, self.run.step)

    def _reason(self) -> str | None:
        return self.control.stop_reason

    def _is_due(self) -> bool:
        step = self.run.step
        if step == self._last_step:
            return False
        by_steps = self._steps is not None and step - self._last_step >= self._steps
        return by_steps or (self._seconds is not None and time.monotonic() - self._last_time >= self._seconds)

    def _agreed(self, reason: str | None, due: bool, always: bool) -> tuple[str | None, bool, bool]:
        """Whether any process was told to stop, and whether the first says that a checkpoint is due or all is lost.

        Args:
            always: also where agreeing is put off for some updates, as it costs a wait.
        """
        accelerator = self.run.accelerator
        first = accelerator.is_main_process
        if accelerator.num_processes == 1:
            return reason, due, (due or reason is not None) and not self.control.owned()
        if accelerator.device.type != "cpu" and self.run.step < self._agree_at and not always:
            return None, False, False
        lost = first and (due or reason is not None) and not self.control.owned()
        code = REASONS.index(reason) + 1 if reason in REASONS else int(reason is not None)
        wait = self._updates_to_wait() if first else 0
        code, due_, lost_, wait = self._exchanged([code, int(first and due), int(lost), wait])
        self._agree_at = self.run.step + wait
        return REASONS[code - 1] if code else None, bool(due_), bool(lost_)

    def _updates_to_wait(self) -> int:
        """How many updates may pass before the next agreement: some seconds of them, but none beyond a checkpoint."""
        updates = 1
        if recent := self.run.step_seconds[-_RECENT:]:
            updates = max(1, int(_AGREE_SECONDS / max(median(recent), 1e-6)))
        if self._steps is not None:
            updates = min(updates, max(1, self._steps - (self.run.step - self._last_step)))
        return updates

    def _exchanged(self, values: list[int]) -> list[int]:
        """The largest of all processes' values, one by one."""
        shared = torch.tensor(values, device=self.run.accelerator.device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        return [int(value) for value in shared.tolist()]


def save(run: Run, folder: Path) -> None:
    """Write the run's checkpoint into its attempt's folder; the first process writes, all take part."""
    shared = _of_all_processes(run)
    weights = dict(zip(run.strategy.parameters, run.strategy.weights(), strict=True))
    moments = run.strategy.moments()
    if run.accelerator.is_main_process:
        state, progress = _captured(run, shared)
        files = {"weights": weights, "optimizer": moments, "progress": progress}

        def write(into: Path) -> list[Path]:
            paths = []
            for name, tensors in files.items():
                paths.append(into / f"{name}.safetensors")
                # Cloned: tensors that share memory are not written twice, nor may they change meanwhile.
                own = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
                write_synced(paths[-1], serialized(own))  # not by save_file, whose files only their owner can read
            return paths

        write_checkpoint(folder, run.step, state, write)
    run.accelerator.wait_for_everyone()


def _of_all_processes(run: Run) -> dict[str, Tensor]:
    """Each process's random states and running loss, one row a process."""
    device = run.accelerator.device
    mine = {"rng.cpu": torch.get_rng_state().to(device), "total": run.total_loss.reshape(1)}
    if device.type == "cuda":
        mine["rng.cuda"] = torch.cuda.get_rng_state(device).to(device)
    return {name: run.accelerator.gather(value.unsqueeze(0)) for name, value in mine.items()}


def _captured(run: Run, shared: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = list(run.strategy.parameters)
    progress: dict[str, Tensor] = {**shared, "step_seconds": torch.tensor(run.step_seconds, dtype=torch.float64)}
    if run.best_state is not None:
        progress |= {f"best.{name}": value for name, value in zip(names, run.best_state, strict=True)}
    for split, logits in run.scores.predictions.items():
        progress[f"predictions.{split}"] = torch.from_numpy(np.ascontiguousarray(logits))
    state = {
        "run_id": run.spec.run_id,
        "step": run.step,
        "epoch": run.epoch,
        "position": run.position,
        "processes": run.accelerator.num_processes,
        "micro_batch": run.spec.compute.micro_batch,
        "schedule": {k: v for k, v in run.schedule.state_dict().items() if k != "lr_lambdas"},
        "rates": [group["lr"] for group in run.rates],
        "validation": {str(epoch): metrics for epoch, metrics in run.scores.validation.items()},
        "best_epoch": run.scores.best_epoch,
        "history": run.writer.history,
        "train_seconds": run.train_seconds + run.epoch_seconds(),
        "evaluate_seconds": run.evaluate_seconds,
        "data_wait_seconds": run.data_wait_seconds,
        "fingerprints": run.fingerprints.model_dump(),
        "not_exact": run.not_exact,
    }
    return state, progress


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read: tensors whole and under the unwrapped model's names, whatever wrote them."""

    folder: Path
    state: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    progress: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> Saved:
        """A (verified) checkpoint."""
        files = (load_file(folder / f"{name}.safetensors") for name in ("weights", "optimizer", "progress"))
        return cls(folder, read_state(folder), *files)

    def check(self, run_id: str, fingerprints: Fingerprints) -> None:
        """Raises UserError: it is of another run, or of other data."""
        for name, value in {"run_id": run_id, "fingerprints": fingerprints.model_dump()}.items():
            if self.state[name] != value:
                raise UserError(
                    f"{self.folder}: {name} is {self.state[name]!r}, this run's is {value!r}; remove the checkpoint"
                )

    @torch.no_grad()
    def copy_weights(self, model: nn.Module) -> None:
        """Into a model that is not wrapped or sharded yet. One without weights is sent them by the first process."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not parameter.is_meta:
                parameter.copy_(self.weights[name])


@torch.no_grad()
def restore(run: Run, saved: Saved) -> None:
    """Bring a run that was just built, with the checkpoint's weights, to the rest of its state."""
    state, progress = saved.state, saved.progress
    run.strategy.set_moments(saved.optimizer)
    for group, rate in zip(run.rates, state["rates"], strict=True):
        group["lr"] = rate
    run.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None] * len(state["rates"])})
    run.step, run.epoch, run.position = state["step"], state["epoch"], state["position"]
    run.step_seconds = progress["step_seconds"].tolist()
    run.train_seconds, run.evaluate_seconds = state["train_seconds"], state["evaluate_seconds"]
    run.data_wait_seconds = state.get("data_wait_seconds", 0.0)  # of checkpoints from before it was recorded: none
    run.scores.validation = {int(epoch): metrics for epoch, metrics in state["validation"].items()}
    run.scores.best_epoch = state["best_epoch"]
    kind = "predictions."
    run.scores.predictions = {k.removeprefix(kind): v.numpy() for k, v in progress.items() if k.startswith(kind)}
    if any(key.startswith("best.") for key in progress):
        run.best_state = [progress[f"best.{name}"].to(run.accelerator.device) for name in run.strategy.parameters]
    done = [record for record in state["history"] if record["epoch"] <= run.epoch]  # one in evaluation is done again
    run.writer.resume(done, {"resumed_from": {"step": run.step, "checkpoint": str(saved.folder)}})
    run.not_exact = list(state.get("not_exact", []))
    if state.get("micro_batch", run.spec.compute.micro_batch) != run.spec.compute.micro_batch and _has_drawn(
        run, progress
    ):
        _mark_not_exact(run, f"resumed with micro_batch {run.spec.compute.micro_batch} after {state['micro_batch']}")
    _restore_own(run, progress, state["processes"])


def _mark_not_exact(run: Run, reason: str) -> None:
    run.not_exact.append(f"{reason}, with dropout")
    log.warning("not exact: %s, with dropout: it goes on, but with other random draws", reason)


def _restore_own(run: Run, progress: dict[str, Tensor], processes: int) -> None:
    """This process's running loss and random states; another number of processes cannot have the same ones."""
    rank, device = run.accelerator.process_index, run.accelerator.device
    if processes != run.accelerator.num_processes:
        total = progress["total"].sum() if rank == 0 else torch.zeros(())
        run.total_loss = total.reshape(()).to(device)
        if _has_drawn(run, progress):
            _mark_not_exact(run, f"resumed on {run.accelerator.num_processes} processes after {processes}")
        torch.manual_seed(run.spec.seed * 1_000 + rank + run.step)
        return
    run.total_loss = progress["total"][rank].reshape(()).to(device)
    torch.set_rng_state(progress["rng.cpu"][rank].clone())  # cloned, since a row of it is not accepted
    if "rng.cuda" in progress and device.type == "cuda":
        torch.cuda.set_rng_state(progress["rng.cuda"][rank].clone(), device)


def _has_drawn(run: Run, progress: dict[str, Tensor]) -> bool:
    """Whether training has drawn random numbers: the first process's generators are not as they were seeded."""
    torch.manual_seed(run.spec.seed * 1_000)
    fresh = {"rng.cpu": torch.get_rng_state()}
    if run.accelerator.device.type == "cuda":
        fresh["rng.cuda"] = torch.cuda.get_rng_state(run.accelerator.device)
    return any(not torch.equal(fresh[name], progress[name][0]) for name in fresh if name in progress)
