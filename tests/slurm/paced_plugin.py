"""A plugin for tests: the embedded digits, whose training batches take their time without taking the processor's.

A fault can then hit a run in progress, and several clusters share two cores.
"""

import time
from dataclasses import replace

from tensloradist.tasks import TASKS
from tensloradist.tasks.base import SplitData

PACE_SECONDS = 0.1  # a training batch


class Paced(SplitData):
    def __init__(self, split):
        self._split, self.ids, self.labels = split, split.ids, split.labels

    def batch(self, indices, augment):
        time.sleep(PACE_SECONDS)
        return self._split.batch(indices, augment)


def load(task, backbone, protocol):
    loaded = TASKS["digits"].load(task.model_copy(update={"name": "digits"}), backbone, protocol)
    return replace(loaded, train=Paced(loaded.train))


TASKS["paced"] = replace(TASKS["digits"], name="paced", load=load)
