"""Training one run: the loop, its data order, optimiser, predictions, records and provenance."""

from tensloradist.training.run import train

__all__ = ["train"]
