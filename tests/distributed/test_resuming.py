"""A group that lost a process goes on from its checkpoint: the same group, another size of it, another strategy."""

import json
import signal
from importlib.util import find_spec

import numpy as np
import pytest
from process_groups import attempt, losses, run_group, spec

from tensloradist.results.attempts import read_attempt
from tensloradist.results.checkpoints import newest_valid
from tensloradist.results.layout import RunFolder
from tensloradist.training import train

# Found and not imported, which takes seconds: the group's processes import it.
without = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'")
pytestmark = [pytest.mark.distributed, without]

GROUPS = {"optimizer": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-2, "lr_multipliers": {"core": 2.0}}}


def run_of(strategy, processes=2, file=None, **changes):
    compute = {"strategy": strategy, "processes": processes, "checkpoint_steps": 3, "timeout_seconds": 120}
    if strategy == "zero3":
        compute["deepspeed_config"] = str(file)
    return spec(compute, **{**GROUPS, **changes})


def goes_on(root, run, before):
    """A new attempt, in a results folder of its own, from the newest checkpoint in the folder `before`."""
    folder = attempt(root, run)
    source = newest_valid(RunFolder(before, run.run_id))
    assert 6 <= source.step <= 9
    target = folder.parent / "0001" / "checkpoints" / source.folder.name
    target.parent.mkdir()
    for path in [*source.folder.rglob("*")]:
        (target / path.relative_to(source.folder)).parent.mkdir(parents=True, exist_ok=True)
        (target / path.relative_to(source.folder)).write_bytes(path.read_bytes())
    checkpoint = newest_valid(RunFolder(root, run.run_id))
    return attempt(root, run, 2, checkpoint)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where killed groups are, and the uninterrupted run on one process."""
    root = tmp_path_factory.mktemp("resuming")
    sizes = {"param_persistence_threshold": 0, "prefetch_bucket_size": 10_000, "max_live_parameters": 20_000}
    (root / "ds.json").write_text(json.dumps({"zero_optimization": {f"stage3_{name}": n for name, n in sizes.items()}}))
    run = run_of("single", 1)
    whole = attempt(root / "whole", run)
    return root, whole, train(run, whole)


def killed(root, strategy):
    """The results folder of a group of two that lost a process; it is killed once."""
    folder = root / f"killed {strategy}"
    if not folder.exists():
        run = run_of(strategy, file=root / "ds.json")
        job = {"run": run, "folder": attempt(folder, run), "stop": [1, 9, "kill"]}
        ended = run_group(root / f"group {strategy}", [job])
        assert ended.codes[1] == -signal.SIGKILL and ended.codes[0] not in (0, -signal.SIGKILL), "the other one stops"
        assert not ended.results[0]
    return folder


def assert_as_uninterrupted(world, folder, metrics):
    _, whole, expected = world
    assert read_attempt(folder).resumed_from is not None
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=0, atol=1e-5)
    assert metrics == json.loads(expected.metrics.model_dump_json())


PAIRS = [("ddp", "ddp"), ("zero2", "zero2"), ("zero3", "zero3"), ("zero3", "ddp")]
LONG_PAIRS = [("ddp", "zero3"), ("zero2", "zero1")]


@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(LONG_PAIRS, marks=pytest.mark.evidence)], ids=["short", "long"])
def test_the_same_group_or_another_strategy_goes_on(world, pairs):
    root = world[0]
    jobs = []
    for before, after in pairs:
        run = run_of(after, file=root / "ds.json")
        jobs.append({"run": run, "folder": goes_on(root / f"{before} to {after}", run, killed(root, before))})
    ended = run_group(root / f"going on {pairs[0]}", jobs)
    assert ended.codes == [0, 0], ended.errors[0][-3000:] + ended.errors[1][-3000:]
    for job, result in zip(jobs, ended.results[0], strict=True):
        assert_as_uninterrupted(world, job["folder"], result["metrics"])
        assert result["provenance"]["not_exact"] == []


@pytest.mark.parametrize("before", ["zero3", pytest.param("zero2", marks=pytest.mark.evidence)])
def test_one_process_goes_on_where_two_were(world, before):
    root = world[0]
    run = run_of("single", 1)
    folder = goes_on(root / f"{before} to single", run, killed(root, before))
    result = train(run, folder)
    assert_as_uninterrupted(world, folder, json.loads(result.metrics.model_dump_json()))


def test_four_processes_go_on_where_two_were(world):
    root = world[0]
    jobs = []
    for strategy in ("zero2", "zero3"):
        run = run_of(strategy, 4, file=root / "ds.json")
        jobs.append({"run": run, "folder": goes_on(root / f"{strategy} on 4", run, killed(root, strategy))})
    ended = run_group(root / "four", jobs, processes=4)
    assert ended.codes == [0] * 4, ended.errors[0][-3000:]
    for job, result in zip(jobs, ended.results[0], strict=True):
        assert_as_uninterrupted(world, job["folder"], result["metrics"])
        assert result["provenance"]["processes"] == 4


def test_with_dropout_another_number_of_processes_is_said_not_to_be_exact(tmp_path):
    changes = {"adapter": {"grouping": "att", "ranks": 2, "dropout": 0.1}}
    run = run_of("ddp", **changes)
    job = {"run": run, "folder": attempt(tmp_path / "killed", run), "stop": [0, 8, "preempted"]}
    assert run_group(tmp_path / "group", [job]).results[0][0]["stopped"] == 6
    folder = goes_on(tmp_path / "on", run_of("single", 1, **changes), tmp_path / "killed")
    assert train(run_of("single", 1, **changes), folder).provenance["not_exact"] == [
        "resumed on 1 processes after 2, with dropout"
    ]
