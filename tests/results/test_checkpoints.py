"""Checkpoint folders: how many are kept, of which attempts, and which is found."""

import pytest

from tensloradist.files import write_synced
from tensloradist.results.checkpoints import KEPT, kept_step, newest_valid, write_checkpoint
from tensloradist.results.layout import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "r")


def write(run, attempt, step):
    folder = run.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)

    def tensors(into):
        write_synced(into / "weights.safetensors", f"{attempt} {step}")
        return [into / "weights.safetensors"]

    return write_checkpoint(folder, step, {"step": step}, tensors)


def kept(run):
    return sorted((int(p.parents[1].name), int(p.name[5:])) for p in run.path.glob("attempts/*/checkpoints/step-*"))


def test_an_attempt_keeps_its_newest_two(run):
    for step in range(1, 6):
        write(run, 1, step)
    assert kept(run) == [(1, 4), (1, 5)] and kept_step(run) == 5


def test_earlier_attempts_keep_theirs_until_the_new_one_has_as_many(run):
    write(run, 1, 10)
    write(run, 1, 20)
    write(run, 2, 30)
    assert kept(run) == [(1, 10), (1, 20), (2, 30)], "were the newest damaged, attempt 1 has the one before it"
    write(run, 2, 40)
    assert kept(run) == [(2, 30), (2, 40)]


def test_what_an_orphan_has_reached_beyond_is_not_removed(run):
    write(run, 1, 50)
    for step in range(20, 20 + KEPT):
        write(run, 2, step)
    assert (1, 50) in kept(run) and newest_valid(run).step == 50


def test_an_orphan_whose_checkpoints_were_removed_can_still_write(run):
    write(run, 1, 1)
    for step in (2, 3):
        write(run, 2, step)
    assert write(run, 1, 4).is_dir() and newest_valid(run).attempt == 1
