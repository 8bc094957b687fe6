"""Evidence, not CI: workers killed with -9 and launched again and again, until every run has its result."""

import json
import os
import random
import signal
import time

import pytest
from test_launch import Launch

ROUNDS = 12


@pytest.mark.evidence
def test_every_run_ends_with_one_result_whatever_is_killed(tmp_path):
    launch = Launch(tmp_path)
    text = launch.file.read_text().replace("seeds: 1", "seeds: 4")
    launch.file.write_text(text)
    dice = random.Random(0)
    for _ in range(ROUNDS):
        process = launch.start(workers=2)
        time.sleep(dice.uniform(6, 20))
        victims = launch.children()
        if victims:
            os.kill(int(dice.choice(victims)), signal.SIGKILL)
        time.sleep(dice.uniform(0, 5))
        for victim in launch.children():
            os.kill(int(victim), signal.SIGKILL)
        process.wait()
    code, out = launch.run()
    assert (code, launch.finished()) == (0, 16), out
    for path in launch.results.glob("runs/*/result.json"):
        published = json.loads(path.read_text())
        for other in path.parent.glob("attempts/*/result.json"):
            duplicate = json.loads(other.read_text())
            assert duplicate["metrics"] == published["metrics"], "a duplicate must be equal"
