"""Runs that a job was too small for: found out, given larger jobs without anybody's help, and finished."""

import json

import pytest
from slurm_sweeps import Sweep

pytestmark = pytest.mark.slurm


def test_a_run_beyond_its_jobs_memory_gets_a_job_with_twice_as_much(cluster, tmp_path):
    sweep = Sweep(tmp_path, epochs=2, parallel=1, task="hungry")
    sweep.file.write_text(sweep.file.read_text().replace("name: hungry", "name: hungry, split_seed: [0, 1]"))
    sweep.profile.write_text(sweep.profile.read_text().replace("memory_gb: 2", "memory_gb: 1.2"))
    sweep.launch(HUNGRY_GB="1")
    sweep.wait_finished(180)
    assert set(sweep.causes()) == {"out_of_host_memory"}, sweep.records("failure.json")
    assert "beyond its memory" in sweep.records("failure.json")[0]["message"]
    decisions = sweep.records("decision.json")
    assert [decision["action"] for decision in decisions] == ["retry_larger"]
    asked = [json.loads(p.read_text())["arrays"] for p in sorted(sweep.root.glob("sweeps/*/launches/*/slurm.json"))]
    assert [[array["asked"]["memory_gb"] for array in arrays] for arrays in asked] == [[1.2], [2.4]]
    assert [array["runs"] for array in asked[1]] == [1], "the larger job is for the hungry run alone"
    assert len(sweep.attempt_files("attempt.json")) == 3, "the other run was trained once"
