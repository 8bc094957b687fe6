"""The result of a run that was trained to its end: scores, times, memory, and the proof that the backbone is intact."""

from __future__ import annotations

from statistics import median
from typing import Literal

from tensloradist.results.schema import FrozenBackbone, Metrics, Result, Throughput, Times
from tensloradist.throughput import measure
from tensloradist.training.frozen import refuse_changed
from tensloradist.training.provenance import peak_memory_of_all, provenance_of
from tensloradist.training.state import TrainState


def result_of(
    state: TrainState,
    how: Literal["finished", "diverged"],
    *,
    attempt: int,
    load_seconds: float,
    total_seconds: float,
) -> Result:
    """The run's result; all processes call it together, and the first one's is complete.

    Raises:
        RuntimeError: a frozen weight has changed.
    """
    parts, accelerator = state.parts, state.accelerator
    step = median(state.step_seconds) if state.step_seconds else None
    wait = min(1.0, state.data_wait_seconds / sum(state.step_seconds)) if step else None
    memory = peak_memory_of_all(accelerator)
    frozen = _proven(state)
    times = Times(
        total_seconds=total_seconds,
        load_seconds=load_seconds,
        train_seconds=state.train_time.seconds,
        evaluate_seconds=state.evaluate_time.seconds,
        step_seconds=step,
        data_wait_share=wait,
        steps=state.step,
        samples_per_second=state.spec.optimizer.batch_size / step if step else None,
        throughput=_throughput(state, step) if accelerator.is_main_process else None,
    )
    return Result(
        run_id=state.spec.run_id,
        state=how,
        attempt=attempt,
        metrics=Metrics(**state.scores.final()),
        adapter_parameters=parts.adapter_parameters,
        trainable_parameters=parts.trainable_parameters,
        times=times,
        peak_memory=memory,
        fingerprints=parts.fingerprints,
        frozen_backbone=frozen,
        provenance=provenance_of(
            state.spec, accelerator, not_exact=state.not_exact, evaluation_batch=state.evaluation.size
        ),
    )


def _proven(state: TrainState) -> FrozenBackbone | None:
    """The backbone's hash before and after, on the first process, where its weights are frozen and not quantised."""
    parts, spec = state.parts, state.spec
    # Quantised layers convert their own weights as they compute: biases to the input's type, and bits to the CPU's.
    if spec.adapter.method == "full" or spec.backbone.quantization is not None:
        return None
    now = parts.strategy.frozen_checksums(parts.adapter)
    if not state.accelerator.is_main_process or parts.frozen is None:
        return None
    refuse_changed(parts.frozen, now)
    return FrozenBackbone(start=parts.frozen.digest, end=parts.frozen.digest)


def _throughput(state: TrainState, step: float | None) -> Throughput:
    parts, accelerator = state.parts, state.accelerator
    return measure(
        state.spec,
        parts.task,
        parts.first_batches,
        step,
        accelerator.device,
        accelerator.num_processes,
        state.communication.share,
    )
