"""What each process of a test's group runs: one training run after another, its words written to a file.

`python ranks.py JOBS OUT`: JOBS is a JSON list of {spec, folder, port, told}. `told` is null or [rank, looks, how]: at
its so-manieth look between updates that rank is told to stop, kills itself, raises, or hangs. Each process writes a
line a job into OUT.RANK.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tensloradist.results.control import RunControl, Stopped
from tensloradist.spec import RunSpec
from tensloradist.training import train, warm

RANK = os.environ["RANK"]


class Told(RunControl):
    """Looked at once between two updates."""

    def __init__(self, told):
        self.told, self.looked = told, 0
        super().__init__()

    @property
    def stop_reason(self):
        self.looked += 1
        if self.told is None or str(self.told[0]) != RANK or self.looked < self.told[1]:
            return None
        how = self.told[2]
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise":
            raise ValueError("the disk of this node is broken")
        if how == "hang":
            time.sleep(600)
        return how

    @stop_reason.setter
    def stop_reason(self, value):
        pass


def main():
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(f"{sys.argv[2]}.{RANK}")
    for job in jobs:
        began = time.perf_counter()
        os.environ["MASTER_PORT"] = job["port"]  # a new one: the last run's store may still answer at the old one
        try:
            result = train(RunSpec.model_validate(job["spec"]), Path(job["folder"]), None, Told(job.get("told")))
            said = json.loads(result.model_dump_json())
        except Stopped as stopped:
            said = {"stopped": stopped.step}
        warm.forget()
        said["seconds"] = time.perf_counter() - began
        with out.open("a") as file:
            file.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # libraries' destructors must not change the end
