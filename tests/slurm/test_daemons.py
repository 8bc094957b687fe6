"""Slurm's own daemons killed: jobs go on, and status is right from the files."""

import time

import pytest
from slurm_sweeps import Sweep, tensloradist

pytestmark = pytest.mark.slurm
AWAY_SECONDS = 20


def test_slurmctld_and_slurmdbd_are_killed(cluster, tmp_path):
    sweep = Sweep(tmp_path, methods="lora, {tenslora: {grouping: att}}", epochs=34, parallel=1)
    sweep.launch()
    sweep.wait_step(20)
    cluster.kill("slurmctld")
    cluster.kill("slurmdbd")
    began = time.monotonic()
    shown = sweep.status()
    assert "Slurm does not answer" in shown and "of 2 runs" in shown and "step" in shown, shown
    refused = tensloradist(
        "launch", sweep.file, "--profile", sweep.profile, "--results", tmp_path / "other", check=False
    )
    assert refused.returncode == 2 and "Slurm refused the job" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and not list(tmp_path.glob("other/sweeps/*/launches/*/slurm.json"))
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
    cluster.up()
    sweep.wait_finished(180)
    assert len(sweep.attempt_files("attempt.json")) == 2, "nothing was lost, hence nothing trained twice"
    assert "2 of 2 runs (2 finished)" in sweep.status()
