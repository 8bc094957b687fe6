"""The training loop on a GPU, without a GPU: the host waits for nothing but the losses that it looks at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import environment

from tensloradist.training import loop

SCRIPT = Path(__file__).with_name("updates.py")


KINDS = ["images", *(pytest.param(kind, marks=pytest.mark.evidence) for kind in ("text", "language"))]


@pytest.fixture(scope="module", params=KINDS)
def found(request, tmp_path_factory):
    command = [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("updates")), request.param]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_host_waits_in_no_update_but_for_the_loss_of_every_twentieth(found):
    """There of every third one, since all updates are alike."""
    assert loop.LOSS_CHECK == 20
    assert found["waits"] == [[], [], ["_local_scalar_dense"], []]


def test_a_batch_is_used_after_its_copy_and_its_memory_after_the_batch_before(found):
    assert found["streams"] == ["copies waits for training", "training waits for copies"] * 4
