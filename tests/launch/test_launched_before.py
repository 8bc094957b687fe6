"""Sweeps that an earlier version launched: the same runs and numbers, resumed where they were interrupted or queued.

`launched_before.tar.xz` was written by commit 73eae94. `launched` was interrupted in its first run, and launched again:
four runs have finished, one is held, and six have failed, since `FAIL_HOW=raise` broke their task. `queued` was
submitted with the stand-ins of `fake_slurm`; both elements of job 101 are pending. `said` holds what the commands
printed then, and `reached` the results of the interrupted and the queued runs when that version went on with them.
"""

import csv
import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_slurm import FakeSlurm
from safetensors.numpy import load_file
from written_before import call, unpacked

from launch.planning.plan import write_manifest
from launch.planning.sweep_file import load_sweep
from launch.records.job_arrays import launches
from launch.records.origin import Origin
from launch.records.submission import Submission
from launch.records.worker_status import read_word
from launch.slurm.accepted import accepted_array
from tensloradist.results.attempts import read_decision
from tensloradist.results.layout import RunFolder

HERE = Path(__file__).parent
WAS = "/tmp/launched_before".ljust(160, "_")
INTERRUPTED, HELD = "cc6bfdfd39a5f52e", "f00735a22bf119d6"


@pytest.fixture
def before(tmp_path):
    return unpacked(HERE / "launched_before.tar.xz", tmp_path, WAS)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The cluster as it was: both elements of the job are pending."""
    slurm = FakeSlurm(tmp_path / "bin").install(monkeypatch)
    slurm.queue(("101_0", "PENDING", 0), ("101_1", "PENDING", 0))
    return slurm


def said(before, name):
    return json.loads((before / "said" / name).read_text())


def assert_reached(before, run_id, attempt):
    """An attempt of this version has come to what the earlier version came to."""
    folder = RunFolder(before / "results", run_id)
    kept, now = (
        load_file(path / "predictions.safetensors") for path in (before / "reached" / run_id, folder.attempt(attempt))
    )
    assert kept.keys() == now.keys()
    for name, values in kept.items():
        np.testing.assert_allclose(values, now[name], rtol=1e-3, atol=1e-3, err_msg=name)
    kept, now = (json.loads(path.read_text()) for path in (before / "reached" / run_id / "result.json", folder.result))
    assert now["metrics"]["test"] == pytest.approx(kept["metrics"]["test"], abs=0.02)
    assert now["fingerprints"].keys() == kept["fingerprints"].keys()
    assert all(now["fingerprints"][name] == kept["fingerprints"][name] for name in ("data", "split", "data_order"))


def test_records_are_written_byte_for_byte_as_before(before, tmp_path):
    for sweep in ("launched", "queued"):
        (manifest,) = (before / "results" / "sweeps" / sweep).glob("*.json")
        written = write_manifest(load_sweep(str(before / f"{sweep}.yaml")), tmp_path)
        assert (written.name, written.read_bytes()) == (manifest.name, manifest.read_bytes())
    for path in before.glob("results/sweeps/*/launches/*/submission*.json"):
        assert Submission.read(path).to_json() == path.read_text()
        Origin.read(path.parent).write(tmp_path / path.parent.name)
        assert (tmp_path / path.parent.name / "launch.json").read_bytes() == (path.parent / "launch.json").read_bytes()
    for path in before.glob("results/sweeps/*/launches/*/worker-*.json"):
        read_word(path).write(tmp_path / path.name)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    for path in before.glob("results/runs/*/attempts/*/decision.json"):
        assert json.dumps(read_decision(path.parent).model_dump(), indent=2) + "\n" == path.read_text()
    ((folder, jobs),) = launches("queued", before / "results")
    array = accepted_array("101", 2, Submission.read(folder / "submission-0.json"))
    replace(jobs, arrays=[]).with_array(tmp_path, array).write(tmp_path)
    for name in ("accepted-0.json", "slurm.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("sweep", ["launched", "queued"])
def test_plan_and_status_show_the_same_runs_in_the_same_states(before, slurm, sweep):
    where = (before / f"{sweep}.yaml", "--json", "--results", before / "results")
    assert json.loads(call("plan", *where)) == said(before, f"{sweep}-plan.json")
    now, then = json.loads(call("status", *where)), said(before, f"{sweep}-status.json")
    assert (now["counts"], now["jobs"]) == (then["counts"], then["jobs"])
    for one, other in zip(now["runs"], then["runs"], strict=True):
        for field in ("run_id", "label", "state", "attempts", "score", "step", "steps", "cause", "message", "decision"):
            assert one[field] == other[field], (one["run_id"], field)


def test_tables_and_exported_results_have_the_same_numbers(before, tmp_path):
    where, out = ("--results", before / "results"), tmp_path / "results.json"
    call("results", before / "launched.yaml", "--format", "json", "--out", out, *where)
    now, then = json.loads(out.read_text()), said(before, "launched-results.json")
    assert len(now["runs"]) == 12
    for one, other in zip(now["runs"], then["runs"], strict=True):
        assert {name: one[name] for name in other} == other
    table = call("table", before / "launched.yaml", "--format", "csv", "--out", tmp_path / "table.csv", *where)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    kept = list(csv.DictReader(io.StringIO((before / "said" / "launched-table.csv").read_text())))
    assert [{name: row[name] for name in kept[0]} for row in rows] == kept, table


def test_launching_again_resumes_the_interrupted_run_and_passes_over_the_held_one(before):
    root = before / "results"
    failed = [run["run_id"] for run in said(before, "launched-status.json")["runs"] if run["state"] == "failed"]
    call("hold", "launched", *(word for run in failed for word in ("--run", run)), "--results", root)
    command = [sys.executable, "-m", "tensloradist.cli", "launch", "launched", "--workers", "1", "--results", str(root)]
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = RunFolder(root, INTERRUPTED)
    resumed = json.loads((folder.attempt(2) / "attempt.json").read_text())["resumed_from"]
    assert (resumed["attempt"], resumed["step"]) == (1, 43)
    assert_reached(before, INTERRUPTED, attempt=2)
    assert len(list(root.glob("runs/*/result.json"))) == 5 and not RunFolder(root, HELD).result.exists()


def test_a_queued_job_runs_its_pickled_function_to_the_end(before, slurm):
    """As the job's script starts it: submitit's own loader, and the address that the function had."""
    (folder,) = (before / "results/sweeps/queued/launches").glob("*/submitit-0")
    assert b"launch.slurm_task" in (folder / "101_1_submitted.pkl").read_bytes()
    job = {"SLURM_JOB_ID": "102", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "1", "SLURM_NTASKS": "1"}
    place = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    done = subprocess.run(
        [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
        env={**os.environ, **job, **place, "SUBMITIT_EXECUTOR": "slurm"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert pickle.loads((folder / "101_1_0_result.pkl").read_bytes()) == ("success", None)
    runs = [run["run_id"] for run in said(before, "queued-plan.json")["runs"]]
    (trained,) = (run_id for run_id in runs if RunFolder(before / "results", run_id).result.exists())
    assert_reached(before, trained, attempt=1)
    slurm.queue(("101_0", "PENDING", 0))
    status = json.loads(call("status", "queued", "--json", "--results", before / "results"))
    assert (status["counts"], status["jobs"]["counts"]) == ({"finished": 1, "planned": 1}, {"pending": 1})
