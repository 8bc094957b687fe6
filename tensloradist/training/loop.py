"""The training loop: epochs of updates, each epoch followed by an evaluation, and the final scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch

from tensloradist.backbones.masks import known_padding
from tensloradist.tasks.losses import example_losses
from tensloradist.training.batches import Batch, Batches
from tensloradist.training.boundary import Boundary
from tensloradist.training.clocks import clock_for
from tensloradist.training.order import Indices, MicroBatch, share
from tensloradist.training.prediction import predict
from tensloradist.training.records import AttemptWriter, Score, defined
from tensloradist.training.state import TrainState

log = logging.getLogger(__name__)
Pass = tuple[MicroBatch, int, bool]  # a micro-batch, the terms of its batch's loss, and whether the update follows
LOSS_CHECK = 20  # updates between looks at the loss on an accelerator, where each look waits for the device


class Diverged(Exception):
    """The loss or the logits are not finite: a result of its own, never retried."""


class Loop:
    """Trains a state to its end; `boundary` may save or stop between two updates, `writer` records what is done."""

    def __init__(self, state: TrainState, boundary: Boundary, writer: AttemptWriter) -> None:
        self.state = state
        self.boundary = boundary
        self.writer = writer
        self._clock = clock_for(state.accelerator.device)

    def fit(self) -> Literal["finished", "diverged"]:
        """Train the epochs that are left and compute the final scores; returns 'finished' or 'diverged'."""
        state = self.state
        epochs = state.spec.optimizer.epochs
        self.boundary.control.at_boundary = True
        try:
            for epoch in range(state.epoch, epochs):
                state.epoch = epoch
                began = state.train_time.seconds + state.evaluate_time.seconds
                with state.train_time:
                    loss = self.train_epoch()
                with state.evaluate_time:
                    self._evaluate_epoch(epoch + 1)
                seconds = state.train_time.seconds + state.evaluate_time.seconds - began
                self._record(epoch + 1, loss, seconds)
                if epoch + 1 < epochs:
                    state.position = 0
                    state.total_loss.zero_()
            with state.evaluate_time:
                self._final_scores()
        except Diverged as error:
            log.warning("diverged: %s", error)
            self.writer.event({"step": state.step, "diverged": str(error)})
            state.scores.diverged(state.parts.task.metric_names)
            return "diverged"
        return "finished"

    def train_epoch(self) -> float:
        """Train what is left of the state's epoch; returns the whole epoch's mean loss.

        Raises:
            Diverged: a loss that is not finite.
        """
        state, parts = self.state, self.state.parts
        batches = parts.batches(state.epoch)[state.position :]
        plan = self._micro_batches(batches)
        micros = [micro for micro, _, _ in plan]
        key = (state.spec.seed, state.epoch)
        train, device = parts.task.train, state.accelerator.device
        with Batches(train, micros, device, key, state.spec.compute.threads) as ready:
            self._updates(plan, ready)
        parts.strategy.check_coverage(len(train), micros, sum(len(batch) for batch in batches))
        mean = float(state.accelerator.reduce(state.total_loss, reduction="sum")) / train.terms_of()
        state.data_wait_seconds += ready.waited()
        state.step_seconds += self._clock.taken()  # of all updates, now that the device is done with them
        if not math.isfinite(mean):
            raise Diverged(f"the mean loss of epoch {state.epoch + 1} is {mean}")
        return mean

    def _updates(self, plan: Sequence[Pass], ready: Batches) -> None:
        """Do the plan's updates. On an accelerator the host waits for nothing but the losses that it looks at."""
        state, parts, accelerator = self.state, self.state.parts, self.state.accelerator
        strategy, model = parts.strategy, parts.model
        model.train()
        # A fault of the official script, kept under its protocol: text has no dropout from each epoch's second update.
        without_dropout = state.spec.protocol == "official" and parts.task.kind == "text"
        if without_dropout and state.position:
            model.eval()
        update_loss = torch.zeros((), device=accelerator.device)  # of the update in progress, on this process
        self._clock.start()
        for _, terms, is_last in plan:
            state.communication.begin()
            with strategy.pass_(is_last):
                loss = self._loss(next(ready)) / terms
                accelerator.backward(loss * strategy.loss_factor)
            state.total_loss += loss.detach() * terms
            update_loss += loss.detach()
            if not is_last:
                continue
            strategy.update()
            parts.schedule.step()
            state.step += 1
            state.position += 1
            if accelerator.device.type == "cpu" or state.step % LOSS_CHECK == 0:
                self._check_loss(update_loss)
                state.data_wait_seconds += ready.waited()
            self._clock.stop()
            state.step_seconds += self._clock.taken()
            state.communication.end()
            if without_dropout:
                model.eval()
            self.boundary.reached()
            update_loss.zero_()
            self._clock.start()

    def _micro_batches(self, batches: Sequence[Indices]) -> list[Pass]:
        """This process's share of the batches."""
        accelerator, train = self.state.accelerator, self.state.parts.task.train
        plan = []
        for batch in batches:
            micro_batch = self.state.spec.compute.micro_batch
            micros = share(batch, accelerator.process_index, accelerator.num_processes, micro_batch)
            plan += [(micro, train.terms_of(batch), micro is micros[-1]) for micro in micros]
        return plan

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The sum of the examples' losses, each with its weight."""
        parts = self.state.parts
        with self.state.accelerator.autocast(), known_padding(batch.padded):
            logits = parts.family.logits(parts.model, batch.inputs).float()
        losses = example_losses(logits, batch.labels, parts.task.num_labels, parts.task.regression)
        return (losses * batch.weights).sum()

    def _check_loss(self, update_loss: torch.Tensor) -> None:
        """Record the update's loss over all processes. Raises Diverged if it is not finite."""
        state = self.state
        value = float(state.accelerator.reduce(update_loss, reduction="sum"))
        if not math.isfinite(value):
            raise Diverged(f"the loss is not finite at update {state.step} of {state.steps}")
        self.writer.step(state.epoch + 1, state.step, state.steps, value)

    def _record(self, epoch: int, loss: float, seconds: float) -> None:
        state = self.state
        record = {
            "epoch": epoch,
            "step": state.step,
            "train_loss": loss,
            **state.scores.epoch(epoch),
            "seconds": round(seconds, 3),
        }
        state.history.append(record)
        self.writer.epoch(record)
        state.accelerator.log({"train_loss": loss, **state.scores.flat(epoch)}, step=state.step)

    def _evaluate_epoch(self, epoch: int) -> None:
        """Validation scores of this epoch (the official protocol's validation is its test part)."""
        state = self.state
        logits = self._predict("validation", may_stop=True)
        is_best = state.scores.add_validation(epoch, self._metrics("validation", logits), logits)
        if is_best and (state.spec.protocol == "official" or epoch < state.spec.optimizer.epochs):
            state.best_weights = state.parts.strategy.weights()

    def _final_scores(self) -> None:
        """Test scores at the last epoch and at the one that was best on validation."""
        scores, strategy, best = self.state.scores, self.state.parts.strategy, self.state.best_weights or []
        if self.state.spec.protocol == "official":
            strategy.set_weights(best)
            scores.set_test_official(self._predict("validation"))
            return
        logits = self._predict("test", may_stop=True)
        last = self._metrics("test", logits)
        scores.set_test(last, logits)
        if scores.best_epoch == self.state.spec.optimizer.epochs:
            scores.set_test_at_best(last)
            return
        now = strategy.weights()
        strategy.set_weights(best)
        scores.set_test_at_best(self._metrics("test", self._predict("test")))
        strategy.set_weights(now)

    def _predict(self, split: str, may_stop: bool = False) -> np.ndarray:
        """The split's logits.

        Args:
            may_stop: the weights are those of the last update, so that the run may stop between two batches.

        Raises:
            Diverged: logits that are not finite.
        """
        state, parts = self.state, self.state.parts
        between = partial(self.boundary.reached, within_evaluation=True) if may_stop else None
        data = getattr(parts.task, split)
        logits = predict(state.accelerator, parts.model, parts.family, data, state.evaluation, between)
        if not np.isfinite(logits).all():
            raise Diverged(f"logits on the {split} part are not finite after update {state.step} of {state.steps}")
        return logits

    def _metrics(self, split: str, logits: np.ndarray) -> Score:
        task = self.state.parts.task
        return defined(task.metrics(logits, getattr(task, split).labels))
