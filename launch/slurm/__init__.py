"""Launching on Slurm. Only this package knows its commands, files and variables."""
