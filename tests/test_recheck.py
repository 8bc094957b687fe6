"""Runs whose labels are not those of their data, as a stale cache left them: found, taken back, trained again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from launch.planning.plan import take_back_stale
from tensloradist.cli import _application
from tensloradist.errors import UserError
from tensloradist.evaluation import evaluate_run
from tensloradist.identity import resolve
from tensloradist.recheck import recheck
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.spec import RunSpec
from tensloradist.tasks.examples import text_backbone
from tensloradist.training import train


def write_data(folder, flipped):
    folder.mkdir(exist_ok=True)
    for name in ("train", "validation"):
        rows = [{"sentence": "cat", "label": (index + flipped) % 2} for index in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def stale(tmp_path, monkeypatch):
    """A results folder with a run on data that was replaced, and one of the new data that was scored on the old."""
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    spec = RunSpec.model_validate(
        {
            "backbone": text_backbone(tmp_path).model_dump(),
            "task": {"name": "sst2", "data": str(tmp_path / "data")},
            "adapter": {"method": "lora", "ranks": 2},
            "optimizer": {"epochs": 1, "batch_size": 16},
            "compute": {"device": "cpu", "threads": 1},
        }
    )
    root, data = tmp_path / "results", tmp_path / "data"
    write_data(data, 0)
    before = resolve(spec)
    execute(before, root, train)
    write_data(data, 1)
    now = resolve(spec)
    shutil.copytree(RunFolder(root, before.run_id).path, RunFolder(root, now.run_id).path)
    for path in RunFolder(root, now.run_id).path.rglob("*.json"):
        text = path.read_text().replace(before.run_id, now.run_id)
        path.write_text(text.replace(before.task.fingerprint, now.task.fingerprint))
    return root, before, now


def scored_labels(run):
    path = next(path.parent for path in sorted(run.attempts.glob("*/result.json")))
    with safe_open(str(path / "predictions.safetensors"), framework="numpy") as file:
        return file.get_tensor("test.labels")


def test_a_run_on_other_labels_than_its_data_is_found_taken_back_and_trained_again(stale):
    root, before, wrong = stale
    found = recheck(root)
    assert not found.agreed and "has changed" in found.unchecked[before.run_id]
    assert found.differing.keys() == {wrong.run_id} and "labels of its validation part" in found.differing[wrong.run_id]
    with pytest.raises(UserError, match=r"which was replaced.*doctor --labels"):
        evaluate_run(RunFolder(root, wrong.run_id).path)

    run, command = RunFolder(root, wrong.run_id), ["doctor", "--labels", "--results", str(root)]
    kept = sorted(path.read_bytes() for path in run.path.rglob("result.json"))
    output = CliRunner().invoke(_application(), command)
    assert output.exit_code == 1 and f"FAILED  run {wrong.run_id}" in output.output and run.result.exists()
    assert CliRunner().invoke(_application(), [*command, "--retract"]).exit_code == 0
    assert not run.result.exists() and RunFolder(root, before.run_id).result.exists()
    assert sorted(path.read_bytes() for path in run.path.rglob("result.json.retracted*")) == kept

    assert execute(wrong, root, train).status == "finished"
    assert np.array_equal(scored_labels(run), [1, 0] * 10)
    assert recheck(root).agreed == [wrong.run_id] and not recheck(root).differing
    next(run.attempts.glob("0002/predictions.safetensors")).write_bytes(b"damaged")
    assert "cannot be read as predictions" in recheck(root).unchecked[wrong.run_id]
    output = CliRunner().invoke(_application(), command)
    assert output.exit_code == 0 and output.output.startswith("?       labels: 0 of 2 finished runs"), output.output


def test_labels_of_a_results_folder_that_is_not_there_are_an_error(tmp_path):
    done = CliRunner().invoke(_application(), ["doctor", "--labels", "--results", str(tmp_path / "nosuch")])
    assert isinstance(done.exception, UserError) and "nosuch: no such results folder" in str(done.exception)


def test_a_launch_takes_back_what_an_earlier_version_trained_on_replaced_texts_and_nothing_else(stale):
    root, _, wrong = stale
    run = RunFolder(root, wrong.run_id)
    sweep = SimpleNamespace(runs=[SimpleNamespace(run_id=wrong.run_id, spec=wrong)])
    assert take_back_stale(sweep, root) == [], "this version's own results are not compared"
    for path in (run.result, *run.attempts.glob("*/result.json")):
        result = json.loads(path.read_text())
        del result["provenance"]["environment"]
        path.unlink()
        path.write_text(json.dumps(result))
    (line,) = take_back_stale(sweep, root)
    assert wrong.run_id in line and "it is trained again" in line and not run.result.exists()
    assert take_back_stale(sweep, root) == []
