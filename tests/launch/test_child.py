"""A child process by itself: what it makes of signals and requests to stop, in whichever order they arrive."""

import os
import signal

import pytest

from launch.planning.sweep_file import load_sweep
from launch.worker.children import Child

SWEEP = """
name: signalled
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 1000, batch_size: 64, learning_rate: 1e-2}
compute: {device: cpu, threads: 1}
"""


@pytest.mark.parametrize(
    ("reason", "cause"), [("cancelled", "cancelled"), (None, "interrupted")], ids=["with a word", "without"]
)
def test_a_signal_waits_for_the_supervisors_word(tmp_path, reason, cause):
    """Slurm signals both at once: the child may hear it before its supervisor has said why."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    spec = load_sweep(str(tmp_path / "sweep.yaml")).runs[0].spec
    child = Child(tmp_path / "log.txt", {})
    try:
        child.request(spec=spec.model_dump(mode="json"), root=str(tmp_path))
        while child.next_event(120)["event"] != "progress":
            pass
        os.kill(child.pid, signal.SIGTERM)
        if reason:
            child.request(stop=reason)
        while (event := child.next_event(120))["event"] != "outcome":
            assert event["event"] == "progress", event
        assert (event["status"], event["cause"]) == ("failed", cause)
    finally:
        child.stop()
