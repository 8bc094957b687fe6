"""Evidence, not CI: repeated kills and launches, many very short runs, and a folder of ten thousand results."""

import json
import os
import random
import signal
import time

import pytest
from slurm_sweeps import Sweep, assert_same_bits, reference, task_processes, tensloradist

from launch.planning.plan import write_manifest
from launch.planning.sweep_file import load_sweep
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result

pytestmark = [pytest.mark.slurm, pytest.mark.evidence]
WORKERS = 4


def test_ten_kills_of_a_worker_at_random_steps(cluster, tmp_path):
    whole = reference(Sweep(tmp_path / "whole"), tmp_path / "whole" / "uninterrupted")
    for number in range(10):
        sweep = Sweep(tmp_path / str(number))
        sweep.launch()
        sweep.wait_step(20)
        time.sleep(random.random() * 4)
        victims = task_processes(sweep)
        if victims:
            os.kill(victims[0], signal.SIGKILL)
        sweep.wait_finished()
        assert_same_bits(sweep, whole)
        print(f"kill {number + 1}: attempts began at {sweep.resumed_from()}; same bits")


@pytest.mark.xdist_group("another user")
def test_five_pairs_of_launches_one_by_another_user(cluster, another_user, tmp_path_factory):
    for number in range(5):
        folder = tmp_path_factory.mktemp("two")
        sweep = Sweep(folder, methods="lora, {tenslora: {grouping: [att, qkv_depth]}}", epochs=5, task="digits")
        home = folder / "home"
        for path in (sweep.root, home):
            path.mkdir()
        cluster.share(folder)
        command = ["launch", str(sweep.file), "--profile", str(sweep.profile), "--results", str(sweep.root)]
        theirs = cluster.as_other_user([*cluster.tensloradist, *command], home)
        before = os.umask(0o002)
        try:
            sweep.launch()
        finally:
            os.umask(before)
        assert theirs.wait(120) == 0
        sweep.wait_finished(180)
        assert len(sweep.attempt_files("result.json")) == 3
        print(f"pair {number + 1}: 3 runs, {len(sweep.attempt_files('attempt.json'))} attempts, 3 results")


def overhead(sweep, runs, workers):
    """(seconds of overhead a run, wall, Σ training and evaluation) from submission to the last attempt's end."""
    (path,) = sweep.root.glob("sweeps/*/launches/*/slurm.json")
    began = json.loads(path.read_text())["submitted"]
    wall = max(record["ended"] for record in sweep.records("end.json")) - began
    results = [read_result(RunFolder(sweep.root, run_id).result) for run_id in sweep.run_ids]
    training = sum(result.times.train_seconds + result.times.evaluate_seconds for result in results)
    return (workers * wall - training) / runs, wall, training


@pytest.mark.parametrize(("seeds", "packed"), [(500, True), (40, False)])
def test_very_short_runs(cluster, tmp_path, seeds, packed):
    sweep = Sweep(tmp_path, seeds=seeds, epochs=3, parallel=WORKERS, minutes=60, task="digits")
    sweep.launch("--runs-per-task", str(seeds // WORKERS if packed else 1))
    sweep.wait_finished(2400)
    each, wall, training = overhead(sweep, seeds, WORKERS)
    kind = "packed arrays" if packed else "one job a run"
    print(
        f"{seeds} runs, {kind}, {WORKERS} workers: {each:.2f} s overhead a run (wall {wall:.0f} s, Σ {training:.0f} s)"
    )
    assert len(sweep.attempt_files("attempt.json")) == seeds
    if packed:
        assert each < 1


def test_status_and_launch_over_ten_thousand_results(cluster, tmp_path):
    sweep = Sweep(tmp_path, epochs=1, parallel=1, task="digits")
    sweep.launch()
    sweep.wait_finished()
    pattern = read_result(sweep.run().result)
    sweep.file.write_text(sweep.file.read_text().replace("seeds: 1\n", "seeds: 10000\n"))
    expanded = load_sweep(str(sweep.file))
    write_manifest(expanded, sweep.root)
    for run in expanded.runs:
        folder = RunFolder(sweep.root, run.run_id)
        if not folder.result.exists():
            result = pattern.model_copy(update={"run_id": run.run_id})
            for name in ("attempt.json", "end.json"):
                record = json.loads((sweep.run().attempt(1) / name).read_text()) | {"run_id": run.run_id}
                write_fast(folder.attempt(1) / name, json.dumps(record))
            write_fast(folder.attempt(1) / "result.json", result.model_dump_json(indent=2))
            os.link(folder.attempt(1) / "result.json", folder.result)
    for command, options, expected in (
        ("status", (), "10000 of 10000 runs"),
        ("launch", ("--profile", sweep.profile), "Nothing to submit"),
    ):
        began = time.perf_counter()
        shown = tensloradist(command, sweep.file, "--results", sweep.root, *options).stdout
        seconds = time.perf_counter() - began
        print(f"{command} over 10,000 finished runs: {seconds:.1f} s")
        assert expected in shown and seconds < 10


def write_fast(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
