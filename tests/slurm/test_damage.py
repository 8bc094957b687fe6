"""Damaged files and full disks: detected, said, recovered."""

import json

import pytest
from slurm_sweeps import Sweep, assert_same_bits, fill, reference, tensloradist, wait_until

from tensloradist.results.checkpoints import newest_valid
from tensloradist.results.publish import read_result

pytestmark = pytest.mark.slurm
LEFT = 0  # bytes that stay free: the room for the cause was kept


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_truncated_checkpoint_and_torn_metrics_then_a_truncated_result(cluster, tmp_path, uninterrupted):
    sweep = Sweep(tmp_path)
    sweep.launch()
    sweep.wait_step(40)
    said = tensloradist("cancel", sweep.file, "--results", sweep.root).stdout
    assert "Cancelled 1 Slurm job;" in said
    wait_until(lambda: sweep.causes() == ["cancelled"], 30, sweep.story)
    *_, before, newest = sorted(sweep.run().attempt(1).glob("checkpoints/step-*"))
    truncate(newest / "weights.safetensors")
    with (sweep.run().attempt(1) / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "ste')
    assert "0 of 1 runs (1 planned)" in sweep.status()
    sweep.launch()
    sweep.wait_finished()
    log = (sweep.run().attempt(2) / "log.txt").read_text()
    assert f"{newest} is damaged" in log and "metrics.jsonl: line" in log and "was torn by a crash" in log
    assert sweep.resumed_from()[1] == int(before.name.removeprefix("step-"))
    assert_same_bits(sweep, uninterrupted)

    truncate(sweep.run().result)
    shown = sweep.status()
    assert "result.json: the result is damaged" in shown and "1 broken" in shown
    assert "is set aside" in sweep.launch()
    sweep.wait_finished()
    assert list(sweep.run().path.glob("result.json.broken-1"))
    assert_same_bits(sweep, uninterrupted)


@pytest.mark.parametrize("moment", ["checkpoint", pytest.param("result", marks=pytest.mark.evidence)])
def test_the_disk_is_full(cluster, tmp_path, moment):
    sweep = Sweep(tmp_path, epochs=14 if moment == "checkpoint" else 5, task="ending")
    whole = reference(sweep, tmp_path / "whole")
    disk = cluster.small_disk / moment
    sweep.root = disk / "results"
    disk.mkdir()
    filling = cluster.small_disk / "filling"
    if moment == "checkpoint":
        sweep.launch()
        sweep.wait_step(20)
        assert fill(cluster.small_disk, LEFT) == filling
    else:
        mark = str(tmp_path / "mark")
        sweep.launch(ENDING_HOW="fill", ENDING_MARK=mark, ENDING_DISK=str(cluster.small_disk))
    wait_until(lambda: sweep.causes(), 90, sweep.story)
    assert sweep.causes() == ["disk_full"]
    assert [decision["action"] for decision in sweep.records("decision.json")] in ([], ["stop"]), "the disk is full"
    assert newest_valid(sweep.run()) is not None, "the earlier checkpoint is intact"
    assert "free space or raise the quota" in sweep.status()
    filling.unlink()
    sweep.launch()
    sweep.wait_finished()
    assert sweep.resumed_from()[-1] >= 20
    assert_same_bits(sweep, whole)


def test_a_launch_onto_a_full_disk_is_refused(cluster, tmp_path):
    sweep = Sweep(tmp_path)
    sweep.root = cluster.small_disk / "refused"
    sweep.root.mkdir()
    filling = fill(cluster.small_disk, left=0)
    try:
        refused = tensloradist("launch", sweep.file, "--profile", sweep.profile, "--results", sweep.root, check=False)
    finally:
        filling.unlink()
    assert refused.returncode == 2 and "No space left on device" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and not sweep.attempt_files("attempt.json")
    assert not list(sweep.root.glob("sweeps/*/launches/*/slurm.json"))


def test_results_are_never_read_from_pickles(cluster, tmp_path):
    """submitit's pickles stay in the launch's folder, for the job alone: no command of ours opens them."""
    sweep = Sweep(tmp_path, epochs=2)
    sweep.launch()
    sweep.wait_finished()
    pickles = list(sweep.root.rglob("*.pkl"))
    assert pickles and all("submitit-" in str(path) for path in pickles)
    for path in pickles:
        path.write_bytes(b"not a pickle")
    assert "1 of 1 runs (1 finished)" in sweep.status()
    assert read_result(sweep.run().result).state == "finished"
    assert json.loads(tensloradist("status", sweep.file, "--results", sweep.root, "--json").stdout)["counts"]
