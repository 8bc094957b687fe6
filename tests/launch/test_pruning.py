"""Pruning: an ended launch's pickles go, what tells of it stays, and nothing goes while its jobs may live."""

import getpass

import pytest

from launch import scheduler
from launch.accepted import Submitted, accepted_array
from launch.profile import Options
from launch.pruning import prune
from launch.submission import Submission
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
def folder(tmp_path):
    folder = tmp_path / "sweeps" / "s" / "launches" / "20260101T000000-aaaaaa"
    for name in (*STAYS, *GOES):
        write_once(folder / name, "" if name in GOES[-2:] else '"word"')
    (folder / "slurm.json").unlink()
    array = accepted_array("7", 2, Submission("m", "r", 1, options=Options().model_dump(mode="json")))
    Submitted("site", getpass.getuser(), "host", 1.0, None, "", [array]).write(folder)
    return folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "living", [None, {"7_0": scheduler.Job("7_0", "PENDING")}], ids=["no answer", "an element waits"]
)
def test_nothing_goes_while_a_job_may_live(folder, tmp_path, monkeypatch, living):
    monkeypatch.setattr(scheduler, "living", lambda ids: living)
    assert prune("s", tmp_path) == 0
    assert files(folder) == {*STAYS, *GOES}


def test_what_nobody_reads_again_goes_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "living", lambda ids: {})
    assert prune("s", tmp_path) == len(GOES)
    assert files(folder) == {*STAYS, "pruned"}
    assert prune("s", tmp_path) == 0


def test_another_users_launch_is_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "living", lambda ids: {})
    monkeypatch.setattr("getpass.getuser", lambda: "somebody")
    assert prune("s", tmp_path) == 0
    assert files(folder) == {*STAYS, *GOES}
