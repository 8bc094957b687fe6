"""A results folder that an earlier version wrote: its runs keep their ids, pass as finished, are reported, and repeat.

`written_before.tar.xz` holds three small sweeps (pictures, GLUE-like text, a language model) with their data, their
backbones and their results, as commit 4149c11 wrote them.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tensloradist.cli import _application
from tensloradist.results.layout import RunFolder

SWEEPS = ("images", "mrpc", "language")


def call(*words):
    done = CliRunner().invoke(_application(), [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).with_name("written_before.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "written_before"


@pytest.mark.parametrize("sweep", SWEEPS)
def test_its_runs_keep_their_ids_and_pass_as_finished(before, sweep):
    planned = json.loads(call("plan", before / f"{sweep}.yaml", "--json", "--results", before / "results"))
    assert [run["state"] for run in planned["runs"]] == ["finished"] * 4
    assert all((before / "results" / "runs" / run["run_id"]).is_dir() for run in planned["runs"])


@pytest.mark.parametrize("sweep", SWEEPS)
def test_it_is_reported(before, sweep, tmp_path):
    out = tmp_path / "all.json"
    part = ("--only", "results", "--format", "json", "--out", out)
    call("report", before / f"{sweep}.yaml", *part, "--results", before / "results")
    rows = json.loads(out.read_text())["runs"]
    assert len(rows) == 4
    for row in rows:
        result = json.loads((before / "results" / "runs" / row["run_id"] / "result.json").read_text())
        assert row["score"] == result["metrics"]["score"]
        assert json.loads(row["test_metrics"]) == result["metrics"]["test"]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_run_trained_again_predicts_the_same(before, sweep, tmp_path):
    manifest = next((before / "results" / "sweeps" / sweep).glob("*.json"))
    run = json.loads(manifest.read_text())["runs"][-1]
    for part, field in (("backbone", "name"), ("task", "data")):  # they lie elsewhere now
        run["spec"][part][field] = str(before / Path(run["spec"][part][field]).name)
    (tmp_path / "run.yaml").write_text(json.dumps(run["spec"]))
    call("run", tmp_path / "run.yaml", "--results", tmp_path / "results")
    kept, again = (
        load_file(RunFolder(root, run["run_id"]).attempt(1) / "predictions.safetensors")
        for root in (before / "results", tmp_path / "results")
    )
    assert kept.keys() == again.keys()
    for name, values in kept.items():
        np.testing.assert_allclose(values, again[name], rtol=1e-3, atol=1e-4, err_msg=name)
