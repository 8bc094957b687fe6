"""Status and the commands on a launched sweep: on a real launch with failures, holds and a retry."""

import json
import shlex
import shutil
import tarfile
from pathlib import Path

import pytest
from test_launch import Launch
from typer.testing import CliRunner

from launch.monitor.status import collect
from tensloradist.cli import _application
from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder


class Cli:
    """The command line on one results folder; a user's mistake is returned as its text."""

    def __init__(self, root):
        self.root, self._app = root, _application()

    def __call__(self, *words):
        done = CliRunner().invoke(self._app, [*map(str, words), "--results", str(self.root)])
        if isinstance(done.exception, UserError):
            return str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Two runs finished, and two failed by an exception: a failure is recorded, and its siblings go on."""
    launch = Launch(tmp_path_factory.mktemp("launched"))
    code, out = launch.run(FAIL_HOW="raise", FAIL_SPLIT_SEED="1")
    assert (code, launch.finished()) == (1, 2), out
    assert launch.causes() == {"bug": 2}
    assert "2 × bug: RuntimeError: broken on request" in out and "log.txt" in out
    return launch


@pytest.fixture
def launched_anew(launched, tmp_path):
    """A copy of it, for a test that changes what other tests look at."""
    own = Launch(tmp_path)
    shutil.copytree(launched.results, own.results)
    return own


@pytest.fixture
def cli(launched):
    return Cli(launched.results)


def launch_hint(shown):
    """The words of the command that status suggests for a failure."""
    (line,) = [line for line in shown.splitlines() if "then: tensloradist launch" in line]
    return shlex.split(line.partition("then: ")[2])


def test_status_counts_groups_failures_and_says_what_to_do(cli):
    shown = cli("status", "fragile")
    assert "2 of 4 runs (2 failed, 2 finished)" in shown
    assert "✗ 2 × bug: RuntimeError: broken on request" in shown
    assert "nodes: " in shown and "ERROR" in shown
    assert launch_hint(shown)[3:5] == ["--failed", "bug"]
    assert "process-hours: " in shown and "wasted (bug " in shown
    data = json.loads(cli("status", "fragile", "--json"))
    assert data["counts"] == {"finished": 2, "failed": 2} and len(data["runs"]) == 4


def test_a_sweep_that_was_never_launched_is_refused_by_name(cli):
    assert "Unknown launched sweep 'fragil'. Did you mean 'fragile'?" in cli("status", "fragil")


def test_a_runs_log_is_shown_with_its_attempts_decisions_and_the_log(cli, launched):
    failed = next(run for run in collect("fragile", launched.results).runs if run.state == "failed")
    shown = cli("explain", failed.run_id[:8], "--log")
    assert "attempt 1: " in shown and "bug: RuntimeError: broken on request" in shown and "→ bug: " in shown
    assert "Traceback" in shown
    assert "has 1" in cli("explain", failed.run_id, "--log", "--attempt", "7")
    assert "none in" in cli("explain", "zz", "--log")


def test_a_new_run_is_explained_by_its_fields_and_a_stale_one_by_its_versions(cli, launched):
    runs = collect("fragile", launched.results).runs
    new = next(run for run in runs if run.state == "failed")
    shown = cli("explain", new.run_id)
    assert "is new" in shown and "task.split_seed" in shown and "- 0" in shown and "+ 1" in shown
    done = RunFolder(launched.results, next(run.run_id for run in runs if run.state == "finished"))
    assert "with this code and these versions" in cli("explain", done.run_id)
    text = done.result.read_text()
    data = json.loads(text)
    data["provenance"]["versions"]["torch"] = "1.0"
    (plugin,) = data["provenance"]["code"]["plugins"]
    data["provenance"]["code"] |= {"plugins": {plugin: "edited since"}, "launch": "edited, too"}
    done.result.write_text(json.dumps(data))
    try:
        shown = cli("explain", done.run_id)
    finally:
        done.result.write_text(text)
    assert "stale" in shown and "torch" in shown and "- 1.0" in shown
    assert f"code.plugins.{plugin}" in shown and "- edited since" in shown and "- edited, too" in shown


def test_two_runs_are_explained_by_what_differs(cli, launched):
    runs = collect("fragile", launched.results).runs
    failed, finished = (next(run.run_id for run in runs if run.state == state) for state in ("failed", "finished"))
    shown = cli("explain", finished[:8], failed)
    assert f"{failed} differs from {finished} in:" in shown and "- 0" in shown and "+ 1" in shown
    found = json.loads(cli("explain", finished, failed, "--json"))
    assert ["task.split_seed", 0, 1] in found["fields"] and found["versions"] == []
    assert "do not differ" in cli("explain", finished, finished)
    assert json.loads(cli("explain", failed, "--json"))["relative"] is not None


def test_held_runs_are_left_out_until_they_are_released(cli, launched):
    assert "2 runs are held now" in cli("hold", "fragile", "--reason", "to look at the rank")
    assert "‖ 2 held: to look at the rank" in cli("status", "fragile")
    code, out = launched.run()
    assert code == 0 and "2 held" in out and "Nothing to train" in out
    assert "Unknown method" in cli("hold", "fragile", "--release", "--method", "att")
    assert "2 runs are released" in cli("hold", "fragile", "--release")
    assert "2 failed" in cli("status", "fragile")


def test_a_bundle_is_read_like_the_original(cli, launched, tmp_path):
    bundle = tmp_path / "fragile.bundle.tar.gz"
    assert "files" in cli("bundle", "fragile", "--out", bundle)
    assert "exists already" in cli("bundle", "fragile", "--out", bundle)
    cli("report", "fragile", "--out", tmp_path / "original")
    cli("report", bundle, "--out", tmp_path / "bundled")
    for name in ("tables.md", "tables.csv"):
        assert (tmp_path / "original" / name).read_bytes() == (tmp_path / "bundled" / name).read_bytes()
    (tmp_path / "again").mkdir()
    cli("bundle", "fragile", "--out", tmp_path / "again")
    again = tmp_path / "again" / "fragile.bundle.tar.gz"
    assert bundle.read_bytes() == again.read_bytes()
    with tarfile.open(bundle) as tar:
        assert any(name.endswith("predictions.safetensors") for name in tar.getnames())


def test_a_bundle_with_weights_has_all_that_loads_them(cli, tmp_path):
    bundle = tmp_path / "weights.bundle.tar.gz"
    cli("bundle", "fragile", "--weights", "--out", bundle)
    with tarfile.open(bundle) as tar:
        names = {Path(name).name for name in tar.getnames()}
    assert {"adapter.json", "adapter.safetensors", "head.safetensors"} <= names


def test_a_damaged_bundle_is_refused(cli, tmp_path):
    bundle = tmp_path / "fragile.bundle.tar.gz"
    cli("bundle", "fragile", "--out", bundle)
    bundle.write_bytes(bundle.read_bytes()[:-2000])
    assert "cannot be read as a bundle" in cli("report", bundle, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_edited_manifest_is_refused(cli, launched):
    (path,) = (launched.results / "sweeps" / "fragile").glob("*.json")
    text = path.read_text()
    path.write_text(text.replace('"seed": 0', '"seed": 5', 1))
    try:
        assert "edited after it was written" in cli("status", "fragile")
    finally:
        path.write_text(text)


def test_without_a_cluster_efficiency_says_so(cli):
    assert "never launched with --profile" in cli("efficiency", "fragile")


def test_a_launch_of_failed_runs_leaves_out_all_others(launched_anew, tmp_path, monkeypatch):
    launched, cli = launched_anew, Cli(launched_anew.results)
    assert "no run of fragile failed for it; causes there: bug" in cli("launch", launched.file, "--failed", "preempted")
    words = launch_hint(cli("status", "fragile"))
    assert words[-2:] == ["--results", str(launched.results)]
    monkeypatch.chdir(tmp_path)  # it works as printed, from anywhere
    code, out = launched.run(command=words[1:-2])
    assert (code, launched.finished()) == (0, 4) and "2 finished, 0 diverged, 0 failed" in out
    assert "No run has failed" in cli("launch", launched.file, "--failed")
