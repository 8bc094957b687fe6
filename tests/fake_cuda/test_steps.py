"""Members of the family on a GPU's tensors, without a GPU: nothing meets across devices, the host never waits, and a
step holds what the planner says."""

import functools
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_cuda import environment
from peaks import peaks
from torch._subclasses.fake_tensor import FakeTensorMode

from tensloradist.memory.cuda_rules import cuda_rules

STEPS = Path(__file__).with_name("steps.py")


@functools.cache
def stepped(which):
    """What steps.py found; its process is started once."""
    done = subprocess.run([sys.executable, str(STEPS), which], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("which", "least"), [("few", 9), pytest.param("all", 380, marks=pytest.mark.evidence)], ids=["few", "all"]
)
def test_a_step_on_cuda_keeps_to_its_device_and_never_makes_the_host_wait(which, least):
    found = stepped(which)
    assert found["failed"] == {} and found["waits"] == {}
    assert found["tried"] >= least


@contextmanager
def planned():
    with cuda_rules(), FakeTensorMode():
        yield


@pytest.mark.parametrize("which", ["few", pytest.param("all", marks=pytest.mark.evidence)])
def test_a_step_planned_for_a_gpu_by_tensors_on_the_cpu_holds_what_it_holds_on_cuda(which):
    assert peaks(which, "cpu", planned) == pytest.approx(stepped(which)["peaks"], rel=0.001)
