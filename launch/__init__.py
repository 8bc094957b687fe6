"""From a sweep file to finished runs: expansion, the check before the queue, submission, and workers."""

STOP_SECONDS = 20.0  # a stopped process's time to record the interruption
