"""One run: from a resolved spec to its result, on one process or several, through Accelerate.

All processes run the same code; the first alone writes. Claims and publishing are the results folder's.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from tensloradist import backbones
from tensloradist.adapter import save
from tensloradist.environment import process_index
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.results.attempts import resumed_from
from tensloradist.results.control import Outnumbered, RunControl, Stopped
from tensloradist.results.execute import cause_of
from tensloradist.results.ranks import write_rank_failure
from tensloradist.results.schema import Result
from tensloradist.spec import RunSpec
from tensloradist.tasks.base import LoadedTask, describe_parts
from tensloradist.training import checkpoint
from tensloradist.training.accelerator import make_accelerator, only_the_spec, release
from tensloradist.training.boundary import Boundary
from tensloradist.training.build import build
from tensloradist.training.compilers import check_compiler
from tensloradist.training.loop import Loop
from tensloradist.training.outcome import result_of
from tensloradist.training.provenance import provenance_of, reset_peak_memory
from tensloradist.training.records import AttemptWriter
from tensloradist.training.state import TrainState
from tensloradist.training.strategy import Strategy
from tensloradist.training.warm import backbone_for, keep_backbone, settle, task_for, working_copy
from tensloradist.training.zero import Zero

log = logging.getLogger(__name__)
Progress = Callable[[dict[str, Any]], None]


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
        folder: the attempt's folder, `runs/<run_id>/attempts/NNNN`; only the first process needs to know it.
        progress: called on the first process: with {'parts'}, a line on the data, before the first step, and then with
            {'epoch', 'step', 'steps', 'loss'} about twice a second.
        control: tells the run to stop at its next step boundary, with a checkpoint.
        keep: hold the backbone, as it was loaded, for the next run in this process (see `warm`); for runs with one
            process only.

    Raises:
        UserError: the spec does not fit its data or backbone.
        Stopped: `control` told it to stop; the checkpoint is written.
        Outnumbered: another worker has taken the run over.
    """
    started, threads = time.perf_counter(), torch.get_num_threads()
    try:
        with only_the_spec(spec.compute.processes):
            return _train_here(spec, folder, progress, started=started, control=control or RunControl(), keep=keep)
    finally:
        torch.set_num_threads(threads)  # the next run in this process may not set a number


def _train_here(
    spec: RunSpec, folder: Path | None, progress: Progress | None, *, started: float, control: RunControl, keep: bool
) -> Result:
    """Train with an Accelerator of the run's own, released afterwards; record why a process but the first failed."""
    index, accelerator = process_index(), None
    try:
        accelerator = make_accelerator(spec, folder)
        folder = _shared_folder(folder, accelerator)
        writer = AttemptWriter(folder, accelerator.is_main_process, progress)
        result = _train(spec, accelerator, writer, started=started, control=control, keep=keep)
        release(accelerator)  # nothing refers to the model any more, so that its memory on the device is free
        return result
    except BaseException as error:
        expected = isinstance(error, Stopped | Outnumbered) or not isinstance(error, Exception)
        if index and folder is not None and not expected:
            write_rank_failure(folder, index, cause_of(error), error)
        # No process of several can go on alone, and releasing may wait for the others.
        if accelerator is not None and accelerator.num_processes == 1:
            release(accelerator)
        raise


def _shared_folder(folder: Path | None, accelerator: Accelerator) -> Path:
    """The first process's attempt folder, on every process."""
    assert folder is not None or not accelerator.is_main_process
    shared = [str(folder)]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(shared, src=0, device=accelerator.device)
    return Path(shared[0])


def _train(
    spec: RunSpec, accelerator: Accelerator, writer: AttemptWriter, *, started: float, control: RunControl, keep: bool
) -> Result:
    _prepare_process(spec, accelerator, writer.folder)
    task = _task(spec, writer)
    strategy = Zero(spec, accelerator) if spec.compute.zero_stage else Strategy(spec, accelerator)
    loaded = _backbone(spec, task, strategy)
    # Several processes, and those of DeepSpeed, end with their run; method `full` trains all weights in place.
    keep = keep and spec.compute.strategy == "single" and spec.adapter.method != "full"
    copied = working_copy(loaded) if keep else None
    state = _state(spec, task, loaded if copied is None else copied, strategy, writer)
    earlier = state.train_time.seconds + state.evaluate_time.seconds  # of the attempts before this one
    load_seconds = time.perf_counter() - started
    try:
        how = Loop(state, Boundary(state, writer.folder, control), writer).fit()
        result = result_of(
            state,
            how,
            attempt=int(writer.folder.name),
            load_seconds=load_seconds,
            total_seconds=time.perf_counter() - started + earlier,
        )
        _write_outcome(state, writer)
    finally:
        control.at_boundary = False
    if copied is not None:
        keep_backbone(spec, task.num_labels, loaded)
    return result


def _prepare_process(spec: RunSpec, accelerator: Accelerator, folder: Path) -> None:
    """Reset the peaks of memory, set the threads, write provenance.json, and check for a compiler."""
    gc.collect()  # what is left of the run before must not count as this one's memory
    reset_peak_memory()
    if spec.compute.threads:
        torch.set_num_threads(spec.compute.threads)
    if accelerator.is_main_process:  # now, and not only with the result: an attempt that is killed has no other
        write_replacing(folder / "provenance.json", json.dumps(provenance_of(spec, accelerator), indent=2) + "\n")
    if spec.compute.compile:
        check_compiler(accelerator.device.type)


def _task(spec: RunSpec, writer: AttemptWriter) -> LoadedTask:
    """The task's data, announced. Raises UserError if a batch has more examples than the training part."""
    task = task_for(spec)
    if spec.optimizer.batch_size > len(task.train):
        raise UserError(
            f"optimizer.batch_size: {spec.optimizer.batch_size} exceeds the {len(task.train)} training "
            f"examples of {task.name}; use at most {len(task.train)}"
        )
    log.info("%s", describe_parts(task))
    writer.announce({"parts": describe_parts(task)})
    return task


def _backbone(spec: RunSpec, task: LoadedTask, strategy: Strategy) -> nn.Module:
    if strategy.holds_weights:
        loaded = backbone_for(spec, task.num_labels)
    else:
        loaded = backbones.empty(spec.backbone, task.num_labels)
    settle()
    return loaded


def _state(spec: RunSpec, task: LoadedTask, model: nn.Module, strategy: Strategy, writer: AttemptWriter) -> TrainState:
    """The run's state before its next update: new, or that of the checkpoint which the attempt resumes from."""
    folder = resumed_from(writer.folder)
    saved = None if folder is None else checkpoint.read(folder)
    state = build(spec, task, model, strategy, saved)
    # Dropout draws from the process's global generator: seeded here, after everything that a warm process skips.
    torch.manual_seed(spec.seed * 1_000 + strategy.accelerator.process_index)
    if saved is not None and folder is not None:
        state.load_state_dict(saved)
        writer.resume(state.history, state.step, folder)
    return state


def _write_outcome(state: TrainState, writer: AttemptWriter) -> None:
    """Write predictions, classes, and the adapter with its head."""
    parts = state.parts
    writer.predictions(state.scores.predictions, parts.task)
    writer.classes(parts.task.classes)
    with parts.strategy.whole(list(parts.strategy.parameters.values())):
        if state.accelerator.is_main_process:
            # An OSError from here tells a full disk from a mistake.
            save(parts.adapter, writer.folder, parts.frozen.digest if parts.frozen is not None else None)
