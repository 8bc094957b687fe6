"""A sweep's file means what it says now, for every command that takes it; its name means what was launched."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from synthetic import Synthetic
from typer.testing import CliRunner

from launch.monitor.status import collect
from launch.planning.labels import RunLabels, label_in
from launch.planning.plan import manifest_of, planned_manifest, write_manifest
from launch.planning.sweep_file import load_sweep
from launch.records.origin import Origin
from tensloradist.cli import _application
from tensloradist.errors import UserError
from tensloradist.fingerprint import digest_of
from tensloradist.results import planner, sweeps
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import latest_manifest
from tensloradist.results.publish import write_failure
from tensloradist.results.schema import Failure

SWEEP = """
name: edited
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora, {tenslora: {grouping: qkv_depth}}]
conditions: [{isorank: [2]}]
seeds: 2
optimizer: {epochs: 1, batch_size: 64, learning_rate: 1.0e-2}
"""
EDITED = SWEEP.replace("1.0e-2", "[1.0e-2, 3.0e-2]").replace("seeds: 2", "seeds: 1")


@pytest.fixture
def file(tmp_path):
    """The sweep's file, launched and with all its results, and edited since: another learning rate, a seed less."""
    path, root = tmp_path / "sweep.yaml", tmp_path / "results"
    path.write_text(SWEEP)
    sweep = load_sweep(str(path))
    write_manifest(sweep, root)
    for run in manifest_of(sweep).runs:
        Synthetic()._write_run(root, run)
    path.write_text(EDITED)
    return path


@pytest.fixture
def cli(file):
    app = _application()

    def call(*words):
        done = CliRunner().invoke(app, [*map(str, words), "--results", str(file.parent / "results")])
        assert done.exception is None or isinstance(done.exception, SystemExit | UserError), done.exception
        return str(done.exception) if isinstance(done.exception, UserError) else done.output

    return call


def test_every_command_shows_the_files_sweep_and_says_so(cli, file, monkeypatch):
    monkeypatch.setattr("analysis.report.write.draw_all", lambda *given, **more: iter(()))  # figures cost seconds
    note = "is not the sweep 'edited' as it was launched last: it has 2 other runs and lacks 2"
    shown = cli("report", file, "--only", "results", "--format", "json")
    rows = json.loads(shown[shown.index("{\n") :])["runs"]
    assert note in shown and sorted(row["state"] for row in rows) == ["finished", "finished", "missing", "missing"]
    assert {row["learning_rate"] for row in rows} == {0.01, 0.03} and {row["seed"] for row in rows} == {0}
    for words in (
        ("report", file, "--only", "tables"),
        ("report", file, "--only", "tables", "--format", "csv"),
        ("report", file, "--out", file.parent / "report"),
        ("report", file, "--only", "figures", "--kind", "pairs", "--out", file.parent / "figures"),
        ("status", file),
    ):
        assert note.replace(" ", "") in cli(*words).replace("\n", "").replace(" ", ""), words
    assert "tensloradist launch" in (file.parent / "report" / "report.html").read_text()
    status = json.loads(cli("status", file, "--json"))
    assert status["counts"] == {"finished": 2, "planned": 2}
    told = cli("explain", "lora, digits, isorank 2", "--sweep", file)
    assert note in told and "learning_rate 0.03" in told
    assert note in cli("compare", "qkv_depth", "lora", "--sweep", file)


def test_the_name_and_the_file_as_it_was_show_what_was_launched(cli, file):
    for source in ("edited", file):
        shown = cli("report", source, "--only", "results", "--format", "json")
        assert "is not the sweep" not in shown and shown.count('"finished"') >= 4
        assert json.loads(cli("status", source, "--json"))["counts"] == {"finished": 4}
        file.write_text(SWEEP)
    file.write_text("# a comment\n" + SWEEP)
    assert "is not the sweep" not in cli("status", file)


def test_an_edited_file_that_cannot_be_planned_is_refused_with_the_way_to_what_was_launched(cli, file):
    file.write_text(EDITED.replace("name: digits}", "name: digts}"))
    said = cli("report", file, "--only", "tables")
    assert "cannot be planned here (" in said and "Did you mean 'digits'" in said and "give its name: edited" in said


@pytest.fixture
def failed(file):
    """Failed runs by whether the file has them: of those launched one each, and one that another sweep has trained."""
    root = file.parent / "results"
    Origin.of(file, root).write(root / "sweeps" / "edited" / "launches" / "20260101T000000-aaaaaa")
    now = {run.run_id for run in planned_manifest(file).runs}
    launched = {run.run_id for run in latest_manifest("edited", root).runs}
    found = {True: {min(now & launched), min(now - launched)}, False: {min(launched - now)}}
    for run_id in found[True] | found[False]:
        attempt = RunFolder(root, run_id).attempt(1)
        shutil.rmtree(attempt.parents[1], ignore_errors=True)
        attempt.mkdir(parents=True)
        write_failure(attempt, Failure(run_id=run_id, attempt=1, cause="bug", message="it broke"))
    return found


def test_a_launch_of_failed_runs_trains_those_of_what_is_given(cli, file, failed, monkeypatch):
    asked = []
    monkeypatch.setattr("launch.local.launch.launch_here", lambda plan, *rest: asked.append(plan.to_run()))
    assert "is not the sweep 'edited' as it was launched last" in cli("launch", file, "--failed")
    (runs,) = asked
    assert {run.run_id for run in runs} == failed[True]
    refused = cli("launch", "edited", "--failed")
    assert (
        "cannot be planned from it" in refused and f"tensloradist launch {file} --failed" in refused and len(asked) == 1
    )
    file.write_text(SWEEP)
    cli("launch", "edited", "--failed")
    assert {run.run_id for run in asked[1]} >= failed[False]


def test_holds_are_of_the_runs_that_the_file_has_now(cli, file):
    root = file.parent / "results"
    note, new = "is not the sweep 'edited'", {run.run_id for run in planned_manifest(file).runs}
    said = cli("hold", file)
    assert note in said and "2 runs are held now." in said
    held = {path.parent.name for path in root.glob("runs/*/held.json")}
    assert len(held) == 2 and held <= new and json.loads(cli("status", file, "--json"))["counts"]["held"] == 2
    said = cli("hold", file, "--release", "--run", min(held))
    assert note in said and f"1 run is released; the next launch takes it: tensloradist launch {file}" in said
    assert "0 runs are released" in cli("hold", "edited", "--release")


def test_a_bundle_of_an_edited_file_is_refused_and_of_the_name_it_is_what_was_launched(cli, file, tmp_path):
    target = tmp_path / "edited.bundle.tar.gz"
    assert "holds a sweep as it was launched last" in cli("bundle", file, "--out", target) and not target.exists()
    assert "files, " in cli("bundle", "edited", "--out", target) and target.exists()


def test_a_file_edited_back_to_an_earlier_launch_needs_no_planning(file, monkeypatch):
    root = file.parent / "results"
    write_manifest(load_sweep(str(file)), root)
    file.write_text(SWEEP)
    monkeypatch.setattr(planner, "_planners", [])
    found = sweeps.find_sweep(str(file), root)
    assert len(found.manifest.runs) == 4 and {run.spec.seed for run in found.manifest.runs} == {0, 1}
    assert "has 2 other runs" in found.note


def test_no_two_runs_are_called_the_same_and_seeds_are_seeds(cli, file):
    root, manifest = file.parent / "results", planned_manifest(file)
    write_manifest(load_sweep(str(file)), root)
    labels = RunLabels(manifest.runs)
    names = [labels.label(run.run_id) for run in manifest.runs]
    assert len(set(names)) == len(names) == 4
    assert "digits, lora, isorank r=2, seed 0, learning_rate 0.03" in names
    assert names == [RunLabels(load_sweep(str(file)).runs).label(run.run_id) for run in manifest.runs]
    assert {run.label for run in collect("edited", root).runs} == set(names)
    (line,) = [line for line in cli("status", "edited").splitlines() if " lora " in line]
    assert "✓·" in line and line.split()[-1] == "1/2", "one seed with two learning rates: two runs"
    failed = next(run for run in manifest.runs if not RunFolder(root, run.run_id).result.exists())
    assert label_in(root, failed.run_id) in names


def test_the_mark_for_a_missed_budget_is_explained_where_there_is_one(cli, file):
    file.write_text(SWEEP.replace("{isorank: [2]}", "{isoparameter: {lora_rank: [4], tolerance: 0.5}}"))
    assert "!" not in cli("plan", file)
    file.write_text(SWEEP.replace("{isorank: [2]}", "{isoparameter: {lora_rank: [4], tolerance: 0.0001}}"))
    assert "! beyond the condition's tolerance" in cli("plan", file)


def test_a_name_that_differs_by_capital_letters_alone_is_refused(file):
    sweep = load_sweep(str(file))
    sweep.name = "Edited"
    with pytest.raises(UserError, match="'Edited' differs from the launched sweep 'edited' only in capital letters"):
        write_manifest(sweep, file.parent / "results")


IMAGES = SWEEP.replace("{name: digits}", "{name: images, data: data}").replace("edited", "images")


def pictures(folder, shade, mode="L"):
    """Data of two classes: eight pictures of one shade each, all different."""
    for name, step in (("dark", 0), ("light", 128)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            picture = np.full((12, 12), (shade + step + index) * (257 if mode == "I;16" else 1))
            Image.fromarray(picture.astype("uint16" if mode == "I;16" else "uint8")).save(
                folder / name / f"{index}.png"
            )


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A sweep on pictures beside its file, launched and with all its results."""
    monkeypatch.setattr("tensloradist.readings._SETTLED", -1.0)
    path, root = tmp_path / "images.yaml", tmp_path / "results"
    path.write_text(IMAGES)
    pictures(tmp_path / "data", 10)
    finish(path, root)
    return path


def finish(path, root, read_before=None):
    """Launch a file and write a result of each run; `read_before`: fingerprint -> as an earlier version took it."""
    sweep = load_sweep(str(path))
    if read_before:
        for run in sweep.runs:
            task = run.spec.task.model_copy(update={"fingerprint": read_before(run.spec.task.fingerprint)})
            run.spec = run.spec.model_copy(update={"task": task})
            run.run_id = run.spec.run_id
    write_manifest(sweep, root)
    for run in manifest_of(sweep).runs:
        if not RunFolder(root, run.run_id).path.exists():
            Synthetic()._write_run(root, run)


def counts(cli, source):
    return json.loads(cli("status", source, "--json"))["counts"]


def ids(source, root):
    return {run.run_id for run in sweeps.find_sweep(str(source), root).manifest.runs}


def test_runs_on_data_that_is_read_differently_now_do_not_pass_as_finished(file, cli):
    path, root = file.parent / "grey.yaml", file.parent / "results"
    path.write_text(IMAGES)
    pictures(file.parent / "data", 10, "I;16")
    finish(path, root, lambda fingerprint: fingerprint.split("+")[0])
    assert counts(cli, path) == {"planned": 4}
    shown = cli("status", path).replace("\n", "").replace(" ", "")
    assert f"data{file.parent}/dataisreaddifferentlythanbytheversionthatplannedtherun" in shown
    assert "totrainwhathasnoresult:tensloradistlaunch" in shown
    assert counts(cli, "images") == {"finished": 4}, "by its name it is shown as it was launched, with a warning"
    for words in (("status", "images"), ("report", "images", "--only", "tables")):
        shown = cli(*words).replace("\n", "").replace(" ", "")
        assert "withtheearlierreadingin4of4runs.Totrainthemanew" in shown


def test_data_that_was_edited_in_place_makes_new_runs(images, cli):
    assert counts(cli, images) == {"finished": 4} and "is not the sweep" not in cli("status", images)
    pictures(images.parent / "data", 40)
    assert counts(cli, images) == {"planned": 4}
    shown = cli("report", images, "--only", "tables", "--format", "csv")
    assert f"data {images.parent}/data has changed since the run was planned" in shown
    assert counts(cli, "images") == {"finished": 4} and "earlier reading" not in cli("status", "images")


def test_the_same_text_in_another_folder_means_the_data_that_lies_there(images, cli):
    other, copy = images.parent / "other" / "sweep.yaml", images.parent / "copy" / "sweep.yaml"
    for path, shade in ((other, 40), (copy, 10)):
        pictures(path.parent / "data", shade)
        path.write_text(IMAGES)
    assert counts(cli, other) == {"planned": 4}
    assert "is not where the launched runs had their data" in cli("report", other, "--only", "results")
    assert counts(cli, copy) == {"finished": 4} and "is not the sweep" not in cli("status", copy)


def test_of_several_launches_of_one_text_the_one_with_the_present_data_is_meant(images, monkeypatch):
    root, data = images.parent / "results", images.parent / "data"
    launches = {}
    for shade in (10, 40, 70):
        pictures(data, shade)
        finish(images, root)
        launches[shade] = ids("images", root)
    images.write_text(IMAGES.replace("seeds: 2", "seeds: 1"))
    finish(images, root)
    images.write_text(IMAGES)
    monkeypatch.setattr(planner, "_planners", [])  # what was launched is known without planning
    for shade, launched in launches.items():
        pictures(data, shade)
        assert ids(images, root) == launched, shade


def test_without_the_data_a_file_is_shown_as_it_was_launched_and_the_note_says_so(images, cli):
    shutil.rmtree(images.parent / "data")
    assert counts(cli, images) == {"finished": 4}
    shown = cli("report", images, "--only", "results")
    assert "images.yaml cannot be planned here (task.data" in shown and "It is shown as it was launched" in shown
    assert counts(cli, "images") == {"finished": 4}


def test_unchanged_data_is_not_read_again_and_any_write_is_seen(images, monkeypatch):
    root, data = images.parent / "results", images.parent / "data"
    digests = []
    monkeypatch.setattr(
        "tensloradist.tasks.image_folders.digest_of", lambda path: digests.append(path) or digest_of(path)
    )
    launched = ids(images, root)
    assert not digests
    kept = (data / "dark" / "0.png").stat()
    (data / "dark" / "0.png").write_bytes((data / "light" / "0.png").read_bytes())
    os.utime(data / "dark" / "0.png", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert ids(images, root).isdisjoint(launched) and digests
