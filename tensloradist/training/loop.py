"""The one training loop: a frozen backbone, an adapter and a head, on one process or several, through Accelerate.

It trains and measures; what a run is lies in the spec, and claims and publishing are the results folder's. All
processes run the same code: the first alone writes.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from tensloradist import backbones, tasks
from tensloradist.adapter import Adapter, attach
from tensloradist.adapter.checkpoint import save
from tensloradist.backbones import family_of, initialize_head
from tensloradist.backbones.masks import known_padding
from tensloradist.environment import process_index
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.results.attempts import resumed_from
from tensloradist.results.control import Outnumbered, RunControl, Stopped
from tensloradist.results.execute import cause_of
from tensloradist.results.ranks import write_rank_failure
from tensloradist.results.schema import Fingerprints, FrozenBackbone, Metrics, Result, Throughput, Times
from tensloradist.spec import RunSpec
from tensloradist.tasks.base import describe_parts
from tensloradist.tasks.losses import example_losses
from tensloradist.throughput import Communication, measure
from tensloradist.training.accelerator import in_precision, make_accelerator, only_the_spec, release
from tensloradist.training.batches import Batch, Batches
from tensloradist.training.blocks import blocks, compile_blocks, recompute
from tensloradist.training.checkpoint import Boundary, Saved, restore
from tensloradist.training.clocks import clock_for
from tensloradist.training.compilers import check_compiler
from tensloradist.training.frozen import hashed, refuse_changed
from tensloradist.training.optimization import make_optimizer, make_schedule
from tensloradist.training.order import MicroBatch, epoch_batches, order_fingerprint, share
from tensloradist.training.prediction import EvaluationPasses, predict
from tensloradist.training.provenance import peak_memory_of_all, provenance_of, reset_peak_memory
from tensloradist.training.records import AttemptWriter, Scores, defined
from tensloradist.training.strategy import Strategy, strategy_for
from tensloradist.training.warm import backbone_for, keep_backbone, settle, task_for, working_copy

log = logging.getLogger(__name__)
Progress = Callable[[dict[str, Any]], None]
Pass = tuple[MicroBatch, int, bool]  # a micro-batch, the terms of its batch's loss, and whether the update follows
_LOSS_CHECK = 20  # updates between looks at the loss on an accelerator, where each look waits for the device


class Diverged(Exception):
    """The loss or the logits are not finite: a result of its own, never retried."""


def train(
    spec: RunSpec,
    folder: Path | None,
    progress: Progress | None = None,
    control: RunControl | None = None,
    keep: bool = True,
) -> Result:
    """Train one run and write its attempt folder (metrics.jsonl, adapter, head, predictions); return its result.

    Where the folder's attempt.json names a checkpoint, the run goes on from there.

    Args:
        spec: resolved (with fingerprints).
        folder: the attempt's folder, `runs/<run_id>/attempts/NNNN`; None on a process but the first: the first one's.
        progress: called on the first process: with {'parts'}, a line on the data, before the first step, and then with
            {'epoch', 'step', 'steps', 'loss'} about twice a second.
        control: tells the run to stop at its next step boundary, with a checkpoint.
        keep: hold the backbone, as it was loaded, for the next run in this process: see `warm`. Of one process alone.

    Raises:
        UserError: the spec does not fit its data or backbone.
        Stopped: `control` said so; the checkpoint is written.
        Outnumbered: another worker has taken the run over.
    """
    started, threads = time.perf_counter(), torch.get_num_threads()
    try:
        with only_the_spec(spec.compute.processes):
            return _train_here(spec, folder, started, progress, control or RunControl(), keep)
    finally:
        torch.set_num_threads(threads)  # the next run in this process may not say how many


def _train_here(
    spec: RunSpec, folder: Path | None, started: float, progress: Progress | None, control: RunControl, keep: bool
) -> Result:
    rank, accelerator = process_index(), None
    try:
        accelerator = make_accelerator(spec, folder)
        if accelerator.num_processes > 1:
            said = [str(folder)]
            torch.distributed.broadcast_object_list(said, src=0, device=accelerator.device)
            folder = Path(said[0])
        assert folder is not None
        result = _train(spec, folder, accelerator, started, progress, control, keep)
        release(accelerator)  # nothing refers to the model any more, so that its memory on the device is free
        return result
    except BaseException as error:
        expected = isinstance(error, Stopped | Outnumbered) or not isinstance(error, Exception)
        if rank and folder is not None and not expected:
            write_rank_failure(folder, rank, cause_of(error), error)
        # Of several processes none can go on, and to release may be to wait for the others.
        if accelerator is not None and accelerator.num_processes == 1:
            release(accelerator)
        raise


def _train(
    spec: RunSpec,
    folder: Path,
    accelerator: Accelerator,
    started: float,
    progress: Progress | None,
    control: RunControl,
    keep: bool,
) -> Result:
    gc.collect()  # what is left of the run before must not count as this one's memory
    reset_peak_memory()
    if spec.compute.threads:
        torch.set_num_threads(spec.compute.threads)
    if accelerator.is_main_process:  # now, and not only with the result: an attempt that is killed has no other
        write_replacing(folder / "provenance.json", json.dumps(provenance_of(spec, accelerator), indent=2) + "\n")
    if spec.compute.compile:
        check_compiler(accelerator.device.type)
    task = task_for(spec)
    if spec.optimizer.batch_size > len(task.train):
        raise UserError(
            f"optimizer.batch_size: {spec.optimizer.batch_size} exceeds the {len(task.train)} training "
            f"examples of {task.name}; use at most {len(task.train)}"
        )
    log.info("%s", describe_parts(task))
    if progress is not None and accelerator.is_main_process:
        progress({"parts": describe_parts(task)})
    strategy = strategy_for(spec, accelerator)
    if strategy.holds_weights:
        loaded = backbone_for(spec, task.num_labels)
    else:
        loaded = backbones.empty(spec.backbone, task.num_labels)
    settle()
    # Several processes, and those of DeepSpeed, end with their run; method `full` trains all weights in place.
    keep = keep and spec.compute.strategy == "single" and spec.adapter.method != "full"
    copied = working_copy(loaded) if keep else None
    model = loaded if copied is None else copied
    checkpoint = resumed_from(folder)
    saved = None if checkpoint is None else Saved.read(checkpoint)
    run = Run(spec, task, model, strategy, AttemptWriter(folder, accelerator.is_main_process, progress), saved)
    # Dropout draws from the process's global generator: seeded here, after everything that a warm process skips.
    torch.manual_seed(spec.seed * 1_000 + accelerator.process_index)
    if saved is not None:
        restore(run, saved)
    earlier = run.train_seconds + run.evaluate_seconds  # of the attempts before this one
    load_seconds = time.perf_counter() - started
    try:
        state = run.fit(Boundary(run, folder, control))
        total = time.perf_counter() - started + earlier
        result = run.result(state, int(folder.name), load_seconds, total)
        run.writer.predictions(run.scores.predictions, task)
        run.writer.classes(task.classes)
        with strategy.whole(list(strategy.parameters.values())):
            if accelerator.is_main_process:
                known = run.frozen.digest if run.frozen is not None else None
                save(run.adapter, folder, known)  # its OSError tells a full disk from a mistake
    finally:
        control.at_boundary = False
    if copied is not None:
        keep_backbone(spec, task.num_labels, loaded)
    return result


class Run:
    """One run's parts and its progress through the epochs."""

    def __init__(
        self,
        spec: RunSpec,
        task: tasks.LoadedTask,
        model: nn.Module,
        strategy: Strategy,
        writer: AttemptWriter,
        saved: Saved | None = None,
    ) -> None:
        self.spec, self.task, self.strategy, self.writer = spec, task, strategy, writer
        self.accelerator = accelerator = strategy.accelerator
        self.family = family_of(model)
        head_hash = initialize_head(model, self.family, spec.seed) if strategy.holds_weights else ""
        self.adapter: Adapter = attach(model, spec.adapter, spec.seed, self.family.head(model))
        weights = hashed(self.adapter) if strategy.holds_weights else None
        self.first_batches = self._batches(0)
        self.fingerprints: Fingerprints = strategy.agreed(
            Fingerprints(
                data=task.data_fingerprint,
                split=task.split_fingerprint,
                head=head_hash,
                data_order=order_fingerprint(task.train.ids, self.first_batches),
                backbone=weights.digest if weights is not None else "",
            )
        )
        if saved is not None:  # before anything is sharded, and DeepSpeed makes copies of its own
            saved.check(spec.run_id, self.fingerprints)
            saved.copy_weights(model)
        if spec.precision == "bf16":
            in_precision(model, spec.precision)
            weights = hashed(self.adapter) if accelerator.is_main_process else None
        self.frozen = weights  # the backbone in the run's precision, as far as this process has to know it
        self.adapter_parameters = self.adapter.num_parameters
        self.trainable_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        compute = spec.compute
        self.blocks = blocks(model, self.family) if compute.activation_checkpointing or compute.compile else []
        if compute.compile:
            compile_blocks(self.blocks, accelerator.device)
        if compute.activation_checkpointing:
            recompute(self.blocks, self.adapter)
        strategy.shard(model)
        counted = {id(p) for group in self.adapter.parameter_groups().values() for p in group}
        head = [p for p in model.parameters() if p.requires_grad and id(p) not in counted]
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = make_optimizer(self.adapter, head, spec.optimizer)
        self.model = strategy.prepare(model, self.adapter, optimizer, named)
        self.rates = optimizer.param_groups
        self.steps = spec.optimizer.epochs * len(self.first_batches)
        self.schedule = make_schedule(optimizer, self.steps, spec.optimizer)
        self.scores = Scores(spec.protocol == "official", task.primary_metric, task.lower_is_better)
        self.step_seconds: list[float] = []
        self.clock = clock_for(accelerator.device)
        self.communication = Communication(accelerator.num_processes, accelerator.device)
        self.evaluation = EvaluationPasses.of(compute)
        self.train_seconds = self.evaluate_seconds = self.data_wait_seconds = 0.0
        self.step = self.epoch = self.position = 0  # updates done; the epoch (0-based), and updates done in it
        self.total_loss = torch.zeros((), device=accelerator.device)  # of the epoch's examples, on this process
        self.best_state: list[torch.Tensor] | None = None
        self.not_exact: list[str] = []  # why the result may differ from an uninterrupted run's by more than rounding
        self._epoch_began: float | None = None

    def _batches(self, epoch: int) -> list[np.ndarray]:
        return epoch_batches(
            len(self.task.train), self.spec.optimizer.batch_size, self.spec.seed, epoch, self.task.train.lengths
        )

    def epoch_seconds(self) -> float:
        """Seconds of training in the epoch in progress that are not in `train_seconds` yet."""
        return time.perf_counter() - self._epoch_began if self._epoch_began is not None else 0.0

    def fit(self, boundary: Boundary) -> str:
        """What is left of all epochs, and the final scores; returns the state of the result."""
        boundary.control.at_boundary = True
        try:
            for epoch in range(self.epoch, self.spec.optimizer.epochs):
                self.epoch = epoch
                before, self._epoch_began = self.train_seconds, time.perf_counter()
                loss = self._train_epoch(boundary)
                self.train_seconds, self._epoch_began = self.train_seconds + self.epoch_seconds(), None
                began = time.perf_counter()
                self._evaluate_epoch(epoch + 1, boundary)
                evaluated = time.perf_counter() - began
                self.evaluate_seconds += evaluated
                seconds = self.train_seconds - before + evaluated
                record = {"train_loss": loss, **self.scores.epoch(epoch + 1), "seconds": round(seconds, 3)}
                self.writer.epoch(epoch + 1, self.step, record)
                self.accelerator.log({"train_loss": loss, **self.scores.flat(epoch + 1)}, step=self.step)
                if epoch + 1 < self.spec.optimizer.epochs:
                    self.position = 0
                    self.total_loss.zero_()
            began = time.perf_counter()
            self._final_scores(boundary)
            self.evaluate_seconds += time.perf_counter() - began
        except Diverged as error:
            log.warning("diverged: %s", error)
            self.writer.event({"step": self.step, "diverged": str(error)})
            self.scores.diverged(self.task.metric_names)
            return "diverged"
        return "finished"

    def _train_epoch(self, boundary: Boundary) -> float:
        """What is left of a pass over the training data; returns the whole pass's mean loss."""
        spec, accelerator = self.spec, self.accelerator
        batches = (self.first_batches if self.epoch == 0 else self._batches(self.epoch))[self.position :]
        plan, examples = self._micro_batches(batches), sum(len(batch) for batch in batches)
        micros = [micro for micro, _, _ in plan]
        key = (spec.seed, self.epoch)
        with Batches(self.task.train, micros, accelerator.device, key, spec.compute.threads) as ready:
            self._updates(plan, ready, boundary)
        self.strategy.check_coverage(len(self.task.train), micros, examples)
        mean = float(accelerator.reduce(self.total_loss, reduction="sum")) / self.task.train.terms_of()
        self.data_wait_seconds += ready.waited()
        self.step_seconds += self.clock.taken()  # of all updates, now that the device is done with them
        if not math.isfinite(mean):
            raise Diverged(f"the mean loss of epoch {self.epoch + 1} is {mean}")
        return mean

    def _updates(self, plan: Sequence[Pass], ready: Batches, boundary: Boundary) -> None:
        """The updates of `plan`. On an accelerator the host waits for nothing but the losses that it looks at."""
        spec, accelerator = self.spec, self.accelerator
        self.model.train()
        # A fault of the official script, kept under its protocol: text has no dropout from each epoch's second update.
        evaluates = spec.protocol == "official" and self.task.kind == "text"
        if evaluates and self.position:
            self.model.eval()
        update_loss = torch.zeros((), device=accelerator.device)  # of the update in progress, on this process
        self.clock.start()
        for _, terms, last in plan:
            self.communication.begin()
            with self.strategy.pass_(last):
                loss = self._loss(next(ready)) / terms
                accelerator.backward(loss * self.strategy.loss_factor)
            self.total_loss += loss.detach() * terms
            update_loss += loss.detach()
            if not last:
                continue
            self.strategy.update()
            self.schedule.step()
            self.step += 1
            self.position += 1
            if accelerator.device.type == "cpu" or self.step % _LOSS_CHECK == 0:
                value = float(accelerator.reduce(update_loss, reduction="sum"))  # of all its examples, on every process
                if not math.isfinite(value):
                    raise Diverged(f"the loss is not finite at update {self.step} of {self.steps}")
                self.writer.step(self.epoch + 1, self.step, self.steps, value)
                self.data_wait_seconds += ready.waited()
            self.clock.stop()
            self.step_seconds += self.clock.taken()
            self.communication.end()
            if evaluates:
                self.model.eval()
            boundary.reached()
            update_loss.zero_()
            self.clock.start()

    def _micro_batches(self, batches: list[np.ndarray]) -> list[Pass]:
        """This process's share of the batches."""
        accelerator, size = self.accelerator, self.spec.compute.micro_batch
        plan = []
        for batch in batches:
            micros = share(batch, accelerator.process_index, accelerator.num_processes, size)
            plan += [(micro, self.task.train.terms_of(batch), micro is micros[-1]) for micro in micros]
        return plan

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The sum of the examples' losses, each with its weight."""
        with self.accelerator.autocast(), known_padding(batch.padded):
            logits = self.family.logits(self.model, batch.inputs).float()
        losses = example_losses(logits, batch.labels, self.task.num_labels, self.task.regression)
        return (losses * batch.weights).sum()

    def _evaluate_epoch(self, epoch: int, boundary: Boundary) -> None:
        """Validation scores of this epoch (the official protocol's validation is its test part)."""
        logits = self._predict("validation", boundary)
        is_best = self.scores.add_validation(epoch, self._metrics("validation", logits), logits)
        if is_best and (self.spec.protocol == "official" or epoch < self.spec.optimizer.epochs):
            self.best_state = self.strategy.weights()

    def _final_scores(self, boundary: Boundary) -> None:
        """Test scores at the last epoch and at the one that was best on validation."""
        epochs = self.spec.optimizer.epochs
        if self.spec.protocol == "official":
            self.strategy.set_weights(self.best_state or [])
            self.scores.set_test_official(self._predict("validation"))
            return
        logits = self._predict("test", boundary)
        last = self._metrics("test", logits)
        self.scores.set_test(last, logits)
        if self.scores.best_epoch == epochs:
            self.scores.set_test_at_best(last)
            return
        now = self.strategy.weights()
        self.strategy.set_weights(self.best_state or [])
        self.scores.set_test_at_best(self._metrics("test", self._predict("test")))
        self.strategy.set_weights(now)

    def _predict(self, split: str, boundary: Boundary | None = None) -> np.ndarray:
        """The split's logits. With `boundary`, while the weights are those of the last update, the run may stop."""
        between = None if boundary is None else partial(boundary.reached, within_evaluation=True)
        part = getattr(self.task, split)
        logits = predict(self.accelerator, self.model, self.family, part, self.evaluation, between)
        if not np.isfinite(logits).all():
            raise Diverged(f"logits on the {split} part are not finite after update {self.step} of {self.steps}")
        return logits

    def _metrics(self, split: str, logits: np.ndarray) -> dict[str, float | None]:
        return defined(self.task.metrics(logits, getattr(self.task, split).labels))

    def result(self, state: str, attempt: int, load_seconds: float, total_seconds: float) -> Result:
        spec = self.spec
        step = median(self.step_seconds) if self.step_seconds else None
        memory = peak_memory_of_all(self.accelerator)
        frozen = None
        # Quantised layers convert their own weights as they compute: biases to the input's type, and bits to the CPU's.
        if spec.adapter.method != "full" and spec.backbone.quantization is None:
            now = self.strategy.frozen_checksums(self.adapter)
            if self.accelerator.is_main_process and self.frozen is not None:
                refuse_changed(self.frozen, now)
                frozen = FrozenBackbone(start=self.frozen.digest, end=self.frozen.digest)
        return Result(
            run_id=spec.run_id,
            state=state,  # type: ignore[arg-type]  # a plain str from fit(), checked by the schema
            attempt=attempt,
            metrics=Metrics(**self.scores.final()),
            adapter_parameters=self.adapter_parameters,
            trainable_parameters=self.trainable_parameters,
            times=Times(
                total_seconds=total_seconds,
                load_seconds=load_seconds,
                train_seconds=self.train_seconds,
                evaluate_seconds=self.evaluate_seconds,
                step_seconds=step,
                data_wait_share=min(1.0, self.data_wait_seconds / sum(self.step_seconds)) if step else None,
                steps=self.step,
                samples_per_second=spec.optimizer.batch_size / step if step else None,
                throughput=self._throughput(step) if self.accelerator.is_main_process else None,
            ),
            peak_memory=memory,
            fingerprints=self.fingerprints,
            frozen_backbone=frozen,
            provenance=provenance_of(
                spec, self.accelerator, not_exact=self.not_exact, evaluation_batch=self.evaluation.size
            ),
        )

    def _throughput(self, step: float | None) -> Throughput:
        accelerator, share = self.accelerator, self.communication.share
        return measure(
            self.spec, self.task, self.first_batches, step, accelerator.device, accelerator.num_processes, share
        )
