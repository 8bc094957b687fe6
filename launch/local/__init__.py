"""Launching on this machine: one worker process for each share of it."""
