"""From a sweep file to finished runs: expansion, the check before the queue, submission, and workers."""
