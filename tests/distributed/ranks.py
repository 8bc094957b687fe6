"""What each process of a test's group runs: one training run after another, its words written to a file.

Imported by the server that the processes are forked from, so that the libraries are imported once for all groups.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import sklearn.datasets  # noqa: F401
import torch
from accelerate.state import PartialState

from tensloradist._torchvision import declare_missing_operators
from tensloradist.results.control import RunControl, Stopped
from tensloradist.spec import RunSpec
from tensloradist.training import train, warm

declare_missing_operators()
from transformers import ViTForImageClassification  # noqa: E402, F401

with contextlib.suppress(ImportError):
    import deepspeed  # noqa: F401


class StopAtLook(RunControl):
    """Looked at once between two updates. `stop` is None or [rank, looks, how]: what a rank does at that look."""

    def __init__(self, stop):
        self.stop, self.looked = stop, 0
        super().__init__()

    @property
    def stop_reason(self):
        self.looked += 1
        if self.stop is None or str(self.stop[0]) != os.environ["RANK"] or self.looked < self.stop[1]:
            return None
        how = self.stop[2]
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise":
            raise ValueError("the disk of this node is broken")
        if how == "hang":
            time.sleep(600)
        if how == "hang in backward":  # while the others reduce gradients, which DeepSpeed does in a group of its own
            torch.Tensor.backward = lambda *_, **__: time.sleep(600)
            return None
        return how

    @stop_reason.setter
    def stop_reason(self, value):
        pass


def main(jobs, out, environment):
    """Train the jobs, {spec, folder, stop} each, and write a line for each into `out`."""
    os.environ |= environment
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # One process group for all jobs, which DeepSpeed keeps in its caches.
    PartialState.destroy_process_group = lambda self, group=None: None
    for job in jobs:
        began = time.perf_counter()
        try:
            result = train(RunSpec.model_validate(job["spec"]), Path(job["folder"]), None, StopAtLook(job["stop"]))
            result = json.loads(result.model_dump_json())
        except Stopped as stopped:
            result = {"stopped": stopped.step}
        warm.forget()
        result["seconds"] = time.perf_counter() - began
        with open(out, "a") as file:
            file.write(json.dumps(result) + "\n")
    os._exit(0)  # libraries' destructors must not change the end
