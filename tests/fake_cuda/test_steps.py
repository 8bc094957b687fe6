"""Members of the family on a GPU's tensors, without a GPU: nothing meets across devices, and the host never waits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import environment

STEPS = Path(__file__).with_name("steps.py")


@pytest.mark.parametrize(
    ("which", "least"), [("few", 9), pytest.param("all", 380, marks=pytest.mark.evidence)], ids=["few", "all"]
)
def test_a_step_on_cuda_keeps_to_its_device_and_never_makes_the_host_wait(which, least):
    done = subprocess.run([sys.executable, str(STEPS), which], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == {} and found["waits"] == {}
    assert found["tried"] >= least
