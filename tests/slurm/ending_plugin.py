"""A plugin for tests: the paced digits, with a process that is stopped, or a disk that fills up, at the very end.

It happens once, when a run's test scores are computed: after its last look at claims, before its result is published.
Or the first process to train is a slow one, for it to be at work still when it is taken for lost.
"""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import paced_plugin
from slurm_sweeps import fill

from tensloradist.tasks import TASKS

LEFT_AT_END = 12 * 1024  # bytes that stay free: too few for predictions, enough to say why


def load(task, backbone, protocol):
    loaded = paced_plugin.load(task, backbone, protocol)

    def metrics(logits, labels):
        how = os.environ.get("ENDING_HOW")
        if how == "slow":
            be_slow(Path(os.environ["ENDING_MARK"]))
        elif how and labels is loaded.test.labels:
            happen(how, Path(os.environ["ENDING_MARK"]))
        return loaded.metrics(logits, labels)

    return replace(loaded, metrics=metrics)


def be_slow(mark):
    if not mark.exists():
        mark.write_text(str(os.getpid()))
    if mark.read_text() == str(os.getpid()):
        time.sleep(1)


def happen(how, mark):
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        fill(Path(os.environ["ENDING_DISK"]), LEFT_AT_END)


TASKS["ending"] = replace(TASKS["digits"], name="ending", load=load)
