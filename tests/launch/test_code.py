"""All code that a job runs counts: this package, launch, and plugins with what they import from beside them."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from fake_slurm import FakeSlurm
from synthetic import planned_run, spec_of

from launch.records.policy import Growth
from launch.records.submission import Submission
from launch.slurm import resubmit
from launch.slurm.arrays import Array
from launch.slurm.profile import Options
from launch.slurm.submit import submit
from launch.slurm.task import run_task
from launch.worker.worker import Worker
from tensloradist import sources
from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.plugins import load_plugins, loaded_code
from tensloradist.results.manifests import manifest_digest
from tensloradist.results.schema import Manifest
from tensloradist.sources import NOT_FOUND, copy_code, job_hash, module_code, module_hash


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A working directory with a plugin, a package that it imports, what that imports, and something else."""
    folder = tmp_path / "work"
    (folder / "own_helpers").mkdir(parents=True)
    files = {
        "own_plugin.py": "import json\nfrom own_helpers.deep import FACTOR\n",
        "own_helpers/__init__.py": "",
        "own_helpers/deep.py": "def later():\n    import own_constants\nFACTOR = 1\n",
        "own_constants.py": "ONE = 1\n",
        "unrelated.py": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


@pytest.mark.parametrize("edited", ["own_plugin.py", "own_helpers/deep.py", "own_constants.py"])
def test_an_edit_anywhere_in_a_plugins_code_changes_its_hash(beside, edited):
    before = module_hash("own_plugin"), job_hash(["own_plugin"]), job_hash([])
    (beside / "unrelated.py").write_text("# not imported\n")
    assert (module_hash("own_plugin"), job_hash(["own_plugin"])) == before[:2]
    (beside / edited).write_text((beside / edited).read_text() + "# edited\n")
    assert module_hash("own_plugin") != before[0] and job_hash(["own_plugin"]) != before[1]
    assert job_hash([]) == before[2]
    assert not {"own_plugin", "own_helpers", "own_constants"} & set(sys.modules), "nothing is imported to find it"


def test_a_plugin_in_a_package_is_all_of_that_package(beside):
    before = module_hash("own_helpers.deep")
    (beside / "own_helpers" / "new.py").write_text("")
    assert module_hash("own_helpers.deep") != before != NOT_FOUND
    assert module_hash("own_nothing") == NOT_FOUND


def test_an_edit_of_launch_is_an_edit_of_what_jobs_run(tmp_path, monkeypatch):
    (tmp_path / "launch").mkdir()
    file = tmp_path / "launch" / "worker.py"
    file.write_text("1")
    found = sources.module_code
    monkeypatch.setattr(
        sources, "module_code", lambda name: {name: tmp_path / "launch"} if name == "launch" else found(name)
    )
    before = job_hash([])
    file.write_text("2")
    assert job_hash([]) != before


def test_what_is_recorded_is_the_code_that_was_imported(beside):
    then = module_hash("own_plugin")
    try:
        load_plugins(["own_plugin"])
        (beside / "own_constants.py").write_text("ONE = 2\n")
        assert loaded_code(["own_plugin"]) == {"own_plugin": then} != {"own_plugin": module_hash("own_plugin")}
    finally:
        for name in ("own_plugin", "own_helpers", "own_helpers.deep", "own_constants"):
            sys.modules.pop(name, None)
    from tensloradist.training.provenance import provenance_of

    compute = SimpleNamespace(strategy="single", offload="none", activation_checkpointing=False)
    spec = SimpleNamespace(compute=compute, precision="fp32", plugins=("own_plugin",), run_task=run_task)
    code = provenance_of(spec, SimpleNamespace(device="cpu", num_processes=1))["code"]
    assert code["plugins"] == {"own_plugin": then} and code["launch"] == module_hash("launch")


def manifest_with_plugin(root):
    run = planned_run("0" * 16, spec_of(plugins=["own_plugin"]))
    text = Manifest(name="s", sweep_sha256="0", conditions=(), runs=(run,)).model_dump_json()
    path = root / "sweeps" / "s" / f"{manifest_digest(text)}.json"
    write_once(path, text)
    return path


def submitted(root, snapshot=False):
    """A submission with the plugin, and the launch's folder."""
    arrays = [Array("default", 1, None, 1, ("0" * 16,), None)]
    manifest, sets = manifest_with_plugin(root), {"default": Options()}
    return submit(
        "s", manifest, root, "site", sets, arrays, snapshot=snapshot, plugins=("own_plugin",), run_task=run_task
    )


def test_a_worker_says_that_a_plugin_was_edited_after_the_submission(beside, tmp_path, monkeypatch, capsys):
    FakeSlurm(tmp_path / "bin").install(monkeypatch)
    _, folder = submitted(tmp_path / "results")
    worker = Worker(folder / "submission-0.json", "0")
    worker._look_at_code()
    assert "not the code that was submitted" not in capsys.readouterr().err
    (beside / "own_constants.py").write_text("ONE = 2\n")
    worker._look_at_code()
    assert "not the code that was submitted" in capsys.readouterr().err
    worker._say("ended")
    assert json.loads((folder / "worker-0.json").read_text())["code_changed"] is True


def test_a_snapshot_holds_plugins_and_its_copies_are_found_first(beside, tmp_path, monkeypatch):
    FakeSlurm(tmp_path / "bin").install(monkeypatch)
    done, folder = submitted(tmp_path / "results", snapshot=True)
    assert Submission.read(folder / "submission-0.json").snapshot
    script = next((folder / "submitit-0").glob("*.sh")).read_text()
    (setup,) = re.findall(r"export PYTHONSAFEPATH=1 .*", script)
    (beside / "own_helpers" / "deep.py").write_text("FACTOR = 2\n")  # after the submission, in the job's own folder
    look = (
        "from tensloradist.plugins import load_plugins; load_plugins(['own_plugin']); import own_helpers.deep, launch\n"
        "from tensloradist.sources import job_hash\n"
        "print(own_helpers.deep.FACTOR, own_helpers.deep.__file__, launch.__file__, job_hash(['own_plugin']), sep='|')"
    )
    (beside / "look.py").write_text(look)
    job = subprocess.run(
        ["bash", "-c", f"{setup}; exec {sys.executable} -m look"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(beside)},
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stderr
    factor, helper, launched, code = job.stdout.strip().split("|")
    assert factor == "1" and {helper, launched} == {
        str(folder / "code" / "own_helpers" / "deep.py"),
        str(folder / "code" / "launch" / "__init__.py"),
    }
    assert code == done.sources, "a worker there does not take it for edited"
    assert set(module_code("own_plugin")) <= {path.name for path in (folder / "code").iterdir()}


def test_folders_of_data_named_like_imports_are_no_code_and_namespace_packages_are(beside):
    """Without an __init__.py, a folder of data that has the name of an installed package looks like a package."""
    plugin = beside / "own_plugin.py"
    plugin.write_text("import wandb, own_data\nfrom own_data import load\nfrom own_space.part import A\n")
    for name in ("own_data/imagenet/big.bin", "own_data/script.py", "wandb/run/hook.py"):
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text("")
    (beside / "own_space").mkdir()
    (beside / "own_space" / "part.py").write_text("from .other import A\n")
    (beside / "own_space" / "other.py").write_text("A = 1\n")
    (beside / "own_space" / "unrelated.py").write_text("")
    assert set(module_code("own_plugin")) == {"own_plugin.py", "own_space/part.py", "own_space/other.py"}


@pytest.mark.parametrize("own", ["site-packages", "plugins"])
def test_a_copy_of_plugins_from_several_folders_is_the_same_code(beside, tmp_path, monkeypatch, own):
    """One imports the other, which lies elsewhere or is installed: in the copy they lie side by side."""
    first, second = tmp_path / own, tmp_path / "other" / "site-packages"
    for folder, name, text in ((first, "own_first", "import own_second\n"), (second, "own_second", "")):
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
    names = ["own_first", "own_second"]
    there = job_hash(names)
    copy_code(names, tmp_path / "code")
    monkeypatch.syspath_prepend(tmp_path / "code")
    assert {path.parent for name in names for path in module_code(name).values()} == {tmp_path / "code"}
    assert job_hash(names) == there
    (tmp_path / "code" / "own_second.py").write_text("# edited\n")
    assert job_hash(names) != there


def test_larger_jobs_of_a_snapshot_have_a_snapshot_of_the_plugins_too(beside, tmp_path, monkeypatch):
    FakeSlurm(tmp_path / "bin").install(monkeypatch)
    _, folder = submitted(tmp_path / "results", snapshot=True)
    asked = {}

    def submit_nothing(*given, **more):
        asked.update(more)
        raise UserError("enough")

    monkeypatch.setattr(resubmit, "submit", submit_nothing)
    path = folder / "submission-0.json"
    resubmit.submit_larger(path, Submission.read(path), {Growth(time=2): ["0" * 16]}, run_task)
    assert asked["snapshot"] is True and asked["plugins"] == ("own_plugin",)
