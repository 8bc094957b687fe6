"""Proposes how many workers should share a GPU, from the measurements of finished runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from tensloradist.results.schema import Result

LOW_UTILIZATION = 0.2  # of the GPU's peak operations: below, a step waits for kernels to be launched
MOST_WORKERS = 4  # that are proposed; each needs CPU cores of its own
FREE_SHARE = 0.1  # of the GPU's memory that stays free
MOST_DATA_WAIT = 0.2  # of a step's time: a run that waits for its data for longer has a GPU that waits for them, too
SPREAD = 1.3  # of what a run's tensors take at the peak: torch's allocator keeps more
CONTEXT_BYTES = 2**30  # of each process's CUDA context and libraries


@dataclass(frozen=True)
class Sharing:
    """How many workers could share a GPU, and the measurements behind that."""

    workers: int
    utilization: float
    run_bytes: int
    gpu_bytes: int

    def __str__(self) -> str:
        used, card = self.run_bytes / 2**30, self.gpu_bytes / 2**30
        return (
            f"workers_per_gpu: {self.workers} could share each GPU: finished runs reach {100 * self.utilization:.1f} % "
            f"of the peak operations and take {used:.1f} GB of GPUs with {card:.0f} GB; the profile shared_gpu shows "
            "how. Times of runs that share a GPU are not comparable"
        )


def sharing(results: Iterable[Result]) -> Sharing | None:
    """A proposal from runs that had a GPU for themselves; None if they use it well, fill it, or did not measure."""
    utilizations, run_bytes, gpu_bytes = [], [], []
    for result in results:
        where, throughput = result.provenance, result.times.throughput
        sizes = (where.get("hardware") or {}).get("gpu_bytes")
        alone = where.get("processes") == 1 and where.get("workers_per_gpu") == 1
        used = throughput.model_flops_utilization if throughput is not None else None
        if (result.times.data_wait_share or 0.0) > MOST_DATA_WAIT:
            continue
        if alone and used is not None and sizes and result.peak_memory.device_bytes:
            utilizations.append(used)
            run_bytes.append(result.peak_memory.device_bytes)
            gpu_bytes.append(min(sizes))
    if not utilizations or (utilization := statistics.median(utilizations)) >= LOW_UTILIZATION:
        return None
    largest, smallest = max(run_bytes), min(gpu_bytes)
    fit = int((1 - FREE_SHARE) * smallest / (SPREAD * largest + CONTEXT_BYTES))
    return Sharing(min(fit, MOST_WORKERS), utilization, largest, smallest) if fit > 1 else None
