"""Pruning: an ended launch's pickles go, what tells of it stays, and nothing goes while its jobs may live."""

import getpass
import json
import os

import pytest
from fake_slurm import FakeSlurm

from launch.records.job_arrays import Submitted, accepted_array
from launch.records.submission import Submission
from launch.slurm import client
from launch.slurm.profile import Options
from launch.slurm.pruning import prune
from tensloradist.files import write_once

STAYS = ("slurm.json", "submission-0.json", "worker-7_0.0.0.json", "worker-7_0.0.0.err", "submitit-0/7_0_0_log.err")
GOES = (
    "submitit-0/7_0_submitted.pkl",
    "submitit-0/7_0_0_result.pkl",
    "submitit-0/7_submission.sh",
    "submitit-0/7_0_0_log.out",
    "worker-7_1.0.0.err",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "cluster", lambda: "here")
    folder = tmp_path / "sweeps" / "s" / "launches" / "20260101T000000-aaaaaa"
    for name in (*STAYS, *GOES):
        write_once(folder / name, "" if name in GOES[-2:] else '"word"')
    (folder / "slurm.json").unlink()
    array = accepted_array("7", 2, Submission("m", "r", 1, options=Options().model_dump(mode="json")))
    Submitted("site", getpass.getuser(), "host", 1.0, None, "", [array], cluster="here").write(folder)
    return folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("living", [None, {"7_0": client.Job("7_0", "PENDING")}], ids=["no answer", "an element waits"])
def test_nothing_goes_while_a_job_may_live(folder, tmp_path, monkeypatch, living):
    monkeypatch.setattr(client, "living", lambda ids: living)
    assert prune("s", tmp_path) == 0
    assert files(folder) == {*STAYS, *GOES}


def test_what_nobody_reads_again_goes_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "living", lambda ids: {})
    assert prune("s", tmp_path) == len(GOES)
    assert files(folder) == {*STAYS, "pruned"}
    assert prune("s", tmp_path) == 0


def test_another_users_launch_is_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "living", lambda ids: {})
    monkeypatch.setattr("getpass.getuser", lambda: "somebody")
    assert prune("s", tmp_path) == 0
    assert files(folder) == {*STAYS, *GOES}


@pytest.mark.parametrize("queued", ["here", "not visible", "no answer"])
def test_a_launch_whose_jobs_are_not_all_on_record_is_left_as_it_is(folder, tmp_path, monkeypatch, queued):
    """Killed between the second array's sbatch and its record; the first array's job has ended."""
    slurm = FakeSlurm(tmp_path / "bin").install(monkeypatch)
    (folder / "slurm.json").rename(folder / "accepted-0.json")
    write_once(folder / "submission-1.json", Submission("m", "r", 1, options=Options().model_dump()).to_json())
    write_once(folder / "submitit-1" / "102_submitted.pkl", '"word"')
    slurm.queue(*[("102", "PENDING", 0)] * (queued == "here"))
    if queued == "here":
        mark = client.comment_of(folder / "submitit-1")
        (slurm.folder / "accepted").write_text(f"102|{mark}|/x\n")
    elif queued == "no answer":
        slurm.fails("squeue")
    before = files(folder)
    for path in folder.glob("submission-*.json"):
        os.utime(path, (1, 1))
    assert prune("s", tmp_path) == 0 and files(folder) - {"accepted-1.json"} == before
    assert ("accepted-1.json" in files(folder)) == (queued == "here")


def test_a_launch_of_a_cluster_that_is_not_known_to_be_this_one_is_left_as_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "living", lambda ids: {})
    for cluster in (None, "there"):
        word = json.loads((folder / "slurm.json").read_text())
        (folder / "slurm.json").unlink()
        write_once(folder / "slurm.json", json.dumps({**word, "cluster": cluster}))
        assert prune("s", tmp_path) == 0 and files(folder) == {*STAYS, *GOES}


def test_a_launch_that_may_still_submit_is_left_as_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "living", lambda ids: {})
    (folder / "slurm.json").rename(folder / "accepted-0.json")
    assert prune("s", tmp_path) == 0
    os.utime(folder / "submission-0.json", (1, 1))
    assert prune("s", tmp_path) == len(GOES)
