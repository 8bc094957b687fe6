"""A plugin for tests: a task that fails, dies or hangs on request, and otherwise is the embedded digits."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

from tensloradist.tasks import TASKS


def load(task, backbone, protocol):
    """FAIL_HOW: how to fail, or how for which split seed: `0=kill_once,1=memory_once`."""
    asked = os.environ.get("FAIL_HOW", "")
    how = dict(part.split("=") for part in asked.split(",")).get(str(task.split_seed)) if "=" in asked else asked
    only, rank = os.environ.get("FAIL_SPLIT_SEED"), os.environ.get("FAIL_RANK")
    if how and (only is None or int(only) == task.split_seed) and rank in (None, os.environ.get("RANK")):
        if how == "raise":
            raise RuntimeError("broken on request")
        mark = Path(os.environ["FAIL_MARK"] + (f"-{task.split_seed}" if "=" in asked else ""))
        if how == "memory_once" and not mark.exists():
            mark.touch()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if how == "device_once" and not mark.exists():
            mark.touch()
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        if how == "kill_once" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            mark.touch()
            time.sleep(600)
    return TASKS["digits"].load(task.model_copy(update={"name": "digits"}), backbone, protocol)


TASKS["fragile"] = replace(TASKS["digits"], name="fragile", load=load)
