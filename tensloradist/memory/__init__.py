"""Plan memory before anything is queued: bytes per process for every strategy, from tensors without data."""

from tensloradist.memory.plan import GPUS, STRATEGIES, Need, gpu_bytes, needs, recommend
from tensloradist.memory.step import StepBytes, measure_step

__all__ = ["GPUS", "STRATEGIES", "Need", "StepBytes", "gpu_bytes", "measure_step", "needs", "recommend"]
