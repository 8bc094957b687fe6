"""What happens between two updates: a checkpoint when it is due, and an orderly end when the run is told to stop."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch

from tensloradist.results.control import Outnumbered, RunControl, Stopped
from tensloradist.training.checkpoint import save
from tensloradist.training.state import TrainState

REASONS = ("interrupted", "preempted", "time_limit", "cancelled")
_RECENT = 20  # updates whose median time says how long an update takes
_AGREE_SECONDS = 2.0  # between the processes' agreements on an accelerator, where each waits for the device


class Boundary:
    """The end of an update, at which all processes of a run save a checkpoint or stop together."""

    def __init__(self, state: TrainState, folder: Path, control: RunControl) -> None:
        self.state = state
        self.folder = folder
        self.control = control
        compute = state.spec.compute
        self._steps = compute.checkpoint_steps
        self._seconds = compute.checkpoint_seconds
        self._last_time = time.monotonic()
        self._last_step = state.step
        self._agree_at = state.step  # the update after which the processes agree next, the same on all of them

    def reached(self, within_evaluation: bool = False) -> None:
        """Save or stop if it is time to; call it between two updates.

        Args:
            within_evaluation: the call is between two batches of an evaluation whose weights are the last update's.

        Raises:
            Stopped: the run was told to stop; its checkpoint is written.
            Outnumbered: another worker has taken the run over.
        """
        due_here = not within_evaluation and self._is_due()
        reason, due, lost = self._agreed(self.control.stop_reason, due_here, within_evaluation)
        if reason is None and not due and not lost:
            return
        if lost:
            raise Outnumbered(f"another worker has taken this run over; it ends here, after update {self.state.step}")
        self.control.stopping = reason is not None
        save(self.state, self.folder)
        self._last_time = time.monotonic()
        self._last_step = self.state.step
        if reason is not None:
            raise Stopped(reason, self.state.step)

    def _is_due(self) -> bool:
        step = self.state.step
        if step == self._last_step:
            return False
        by_steps = self._steps is not None and step - self._last_step >= self._steps
        return by_steps or (self._seconds is not None and time.monotonic() - self._last_time >= self._seconds)

    def _agreed(self, reason: str | None, due: bool, always: bool) -> tuple[str | None, bool, bool]:
        """(Why any process is to stop, whether a checkpoint is due, whether the run is lost), the same everywhere.

        The first process decides on checkpoints and on the loss of the run.

        Args:
            always: agree now, even where agreements are spaced out because each waits for the device.
        """
        accelerator = self.state.accelerator
        first = accelerator.is_main_process
        if accelerator.num_processes == 1:
            return reason, due, (due or reason is not None) and not self.control.owned()
        if accelerator.device.type != "cpu" and self.state.step < self._agree_at and not always:
            return None, False, False
        lost = first and (due or reason is not None) and not self.control.owned()
        code = REASONS.index(reason) + 1 if reason in REASONS else int(reason is not None)
        wait = self._updates_to_wait() if first else 0
        code, due_, lost_, wait = self._exchanged([code, int(first and due), int(lost), wait])
        self._agree_at = self.state.step + wait
        return REASONS[code - 1] if code else None, bool(due_), bool(lost_)

    def _updates_to_wait(self) -> int:
        """How many updates may pass before the next agreement: about two seconds' worth, but none past a checkpoint."""
        updates = 1
        if recent := self.state.step_seconds[-_RECENT:]:
            updates = max(1, int(_AGREE_SECONDS / max(median(recent), 1e-6)))
        if self._steps is not None:
            updates = min(updates, max(1, self._steps - (self.state.step - self._last_step)))
        return updates

    def _exchanged(self, values: list[int]) -> list[int]:
        """The largest of all processes' values, one by one."""
        shared = torch.tensor(values, device=self.state.accelerator.device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        return [int(value) for value in shared.tolist()]
