"""A plugin for tests: the embedded digits, with one split whose loading takes more memory than a small job has."""

import os
import time
from dataclasses import replace

import numpy as np

from tensloradist.tasks import TASKS

HUNGRY_SPLIT = 1


def load(task, backbone, protocol):
    if task.split_seed == HUNGRY_SPLIT:
        held = np.ones(int(float(os.environ["HUNGRY_GB"]) * 2**27))  # eight bytes each
        time.sleep(4)  # memory is looked at once a second
        del held
    return TASKS["digits"].load(task.model_copy(update={"name": "digits"}), backbone, protocol)


TASKS["hungry"] = replace(TASKS["digits"], name="hungry", load=load)
