"""Load manifests and results as one tidy frame with a row for each run and condition."""

from analysis.load.sweeps import load, load_from

__all__ = ["load", "load_from"]
