"""How many tasks a launch gets, how long runs are taken to be, and a launch on a cluster with nothing left to train."""

import json
from types import SimpleNamespace

import pytest
from fake_slurm import FakeSlurm
from synthetic import result_of

from launch.planning.plan import check
from launch.planning.sweep_file import load_sweep
from launch.slurm.arrays import arrays
from launch.slurm.durations import Durations
from launch.slurm.launch import launch_on_cluster
from launch.slurm.profile import Options
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import latest_manifest
from tensloradist.spec import RunSpec

BASE = {
    "backbone": {"name": "b", "fingerprint": "b"},
    "task": {"name": "digits", "fingerprint": "t"},
    "adapter": {"grouping": "qkv"},
    "optimizer": {"epochs": 1, "batch_size": 32},
}


@pytest.fixture(autouse=True)
def slurm(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "bin").install(monkeypatch)


def spec(seed=0, **sections):
    return RunSpec.model_validate(
        {**BASE, "seed": seed, **{name: BASE.get(name, {}) | sections[name] for name in sections}}
    )


def planned(number, **sections):
    runs = [spec(seed, **sections) for seed in range(number)]
    return [SimpleNamespace(spec=run, run_id=run.run_id) for run in runs]


def finish(root, run, seconds):
    result = result_of(run.run_id, total_seconds=seconds)
    folder = RunFolder(root, run.run_id)
    write_once(folder.spec, run.model_dump_json())
    write_once(folder.result, result.model_dump_json())


def tasks(runs, root, runs_per_task=None, **options):
    found = arrays(runs, {"default": Options(**options)}, root, runs_per_task)
    return [(array.tasks, array.runs_per_task, array.parallel) for array in found]


@pytest.mark.parametrize(
    "other",
    [
        {"backbone": {"fingerprint": "tiny"}},
        {"optimizer": {"epochs": 9}},
        {"optimizer": {"batch_size": 8}},
        {"compute": {"strategy": "ddp", "processes": 2}},
        {"task": {"fingerprint": "another"}},
        {"precision": "bf16"},
    ],
)
def test_durations_are_of_runs_of_the_same_kind_alone(tmp_path, other):
    data = {**BASE, "compute": {}}
    for name, value in other.items():
        data[name] = data[name] | value if isinstance(value, dict) else value
    for seed in range(20):
        finish(tmp_path, RunSpec.model_validate({**data, "seed": seed}), seconds=70)
    assert Durations(tmp_path).of(spec()) is None
    assert tasks(planned(600), tmp_path, max_parallel=32) == [(32, None, 32)], "until none is left"
    finish(tmp_path, spec(seed=601), seconds=900)
    assert Durations(tmp_path).of(spec()) == 900
    assert tasks(planned(600), tmp_path, max_parallel=32) == [(300, 2, 32)], "the target is 30 minutes"


def test_short_runs_are_spread_over_all_tasks_that_may_run_at_once(tmp_path):
    finish(tmp_path, spec(seed=1000), seconds=6)
    assert tasks(planned(600), tmp_path, max_parallel=32) == [(32, 19, 32)], "not 2 tasks of 300 runs"
    assert tasks(planned(33), tmp_path, max_parallel=32) == [(32, 2, 32)]
    assert tasks(planned(5), tmp_path, max_parallel=32) == [(5, 1, 5)]
    assert tasks(planned(600), tmp_path, runs_per_task=300, max_parallel=32) == [(2, 300, 2)], "the user knows better"


def test_a_mixture_is_as_long_as_its_parts(tmp_path):
    finish(tmp_path, spec(seed=1000), seconds=60)
    finish(tmp_path, spec(seed=1000, optimizer={"epochs": 9}), seconds=540)
    mixed = planned(50) + planned(50, optimizer={"epochs": 9})
    assert tasks(mixed, tmp_path, max_parallel=1) == [(17, 6, 1)], "300 s on average, 1800 s a task"


def test_a_strangers_broken_result_is_passed_over_with_a_warning(tmp_path, caplog):
    finish(tmp_path, spec(seed=1000), seconds=60)
    write_once(tmp_path / "runs" / "0123" / "result.json", "")
    write_once(tmp_path / "runs" / "0123" / "spec.json", spec().model_dump_json())
    assert Durations(tmp_path).of(spec()) == 60
    assert "leave out 1 results that cannot be read" in caplog.text and "runs/0123/result.json" in caplog.text


def test_what_may_run_at_once_is_divided_over_the_arrays_of_an_option_set(tmp_path):
    found = tasks(planned(2500), tmp_path, runs_per_task=1, max_parallel=32, max_array_size=1000)
    assert [array[0] for array in found] == [1000, 1000, 500]
    assert [array[2] for array in found] == [13, 13, 6]
    found = tasks(planned(50), tmp_path, runs_per_task=1, max_parallel=3, max_array_size=10)
    assert [array[2] for array in found] == [1] * 5, "each can begin"
    mixed = planned(3) + planned(400, compute={"strategy": "ddp", "processes": 2})
    assert [array[2] for array in tasks(mixed, tmp_path, runs_per_task=1, max_parallel=32)] == [1, 31]


SWEEP = """
name: ready
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora]
conditions: [{isorank: [2]}]
seeds: 2
"""


@pytest.fixture
def ready(tmp_path):
    """A sweep of which every run has a result, and a profile."""
    file, profile, root = tmp_path / "sweep.yaml", tmp_path / "site.yaml", tmp_path / "results"
    file.write_text(SWEEP)
    profile.write_text("max_parallel: 2\n")
    return file, str(profile), root


def test_a_sweep_that_others_have_trained_gets_its_manifest(ready, capsys):
    file, profile, root = ready
    for run in load_sweep(str(file)).runs:
        finish(root, run.spec, seconds=1)
    launch_on_cluster(check(load_sweep(str(file)), root), root, profile, dry_run=True)
    assert not (root / "sweeps").exists()
    launch_on_cluster(check(load_sweep(str(file)), root), root, profile)
    assert capsys.readouterr().out.count("Nothing to submit.") == 2
    assert len(latest_manifest("ready", root).runs) == 2


def test_the_manifest_is_there_before_anything_is_submitted(ready, slurm):
    file, profile, root = ready
    (slurm.folder / "sbatch.accepts").write_text("0")
    with pytest.raises(UserError, match="nothing was submitted"):
        launch_on_cluster(check(load_sweep(str(file)), root), root, profile)
    assert len(latest_manifest("ready", root).runs) == 2
    submissions = list(root.glob("sweeps/ready/launches/*/submission-0.json"))
    assert json.loads(submissions[0].read_text())["launch_workers"] == 2
