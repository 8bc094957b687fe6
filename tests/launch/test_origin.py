"""Commands that are printed work as they are printed, and a launched sweep goes by its name wherever its file is."""

import shlex
import shutil
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from typer.testing import CliRunner

from launch.records.origin import Hints, Origin, last_origin, sweep_to_launch
from tensloradist.cli import _application
from tensloradist.errors import UserError
from tensloradist.results.sweeps import sweep_name
from tensloradist.shipped import shipped_folder

SWEEP = """
name: {name}
backbone: {{source: digits_vit, name: digits_vit}}
task: {{name: digits}}
methods: [lora]
conditions: [{{isorank: [2]}}]
seeds: 1
"""


def cli(command):
    """What a command says, given as it would be typed."""
    program, *words = shlex.split(command) if isinstance(command, str) else map(str, command)
    assert program == "tensloradist"
    done = CliRunner().invoke(_application(), words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with a cluster that accepts everything."""
    monkeypatch.delenv("TENSLORADIST_RESULTS", raising=False)
    FakeSlurm(tmp_path / "bin").install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("site.yaml").write_text("max_parallel: 2\n")
    return tmp_path


def a_sweep(path, name):
    path.write_text(SWEEP.format(name=name))
    return path


def launched(root, file, name, *profile):
    """As a launch leaves it, without training."""
    folder = root / "sweeps" / name / "launches" / "20260101T000000-aaaaaa"
    Origin.of(file, root, *profile).write(folder)
    (root / "sweeps" / name / "latest").write_text("digest\n")


def test_a_launch_on_a_cluster_says_how_to_follow_it_and_what_it_was_is_on_record(here):
    a_sweep(here / "my sweep.yaml", "exp1")
    said = cli(["tensloradist", "launch", "my sweep.yaml", "--profile", "site.yaml", "--results", "my results"])
    (follow,) = [line.removeprefix("Follow with: ") for line in said.splitlines() if line.startswith("Follow with: ")]
    assert follow == "tensloradist status exp1 --watch --results 'my results'"
    assert "0 of 1 runs (1 planned)" in cli(follow.replace(" --watch", ""))
    origin = last_origin("exp1", here / "my results")
    assert origin == Origin(str(here / "my sweep.yaml"), str(here / "my results"), str(here / "site.yaml"))
    again = cli(["tensloradist", "launch", "exp1", "--profile", "site.yaml", "--results", "my results", "--dry-run"])
    assert "exp1: 1 run to train" in again
    assert "exp1: 1 run" in cli(["tensloradist", "plan", "exp1", "--results", "my results"])


def test_hints_say_the_file_the_results_folder_and_the_profile(here):
    launched(here / "results", a_sweep(here / "a b.yaml", "exp1"), "exp1", "site.yaml")
    hints = Hints("exp1", last_origin("exp1", here / "results"), Path("results"))
    words = ["launch", str(here / "a b.yaml"), "--failed", "bug", "--profile", str(here / "site.yaml")]
    assert shlex.split(hints.launch_failed("bug")) == ["tensloradist", *words, "--results", "results"]
    assert hints.release() == "tensloradist hold exp1 --release --results results"
    shipped = Origin.of(shipped_folder("sweeps") / "paper" / "vision.yaml", here / "results", "gpu_node")
    hints = Hints("paper_vision", shipped)
    assert hints.launch() == "tensloradist launch paper/vision --profile gpu_node"


def test_a_name_is_a_shipped_sweep_or_one_that_was_launched_here(here):
    root = here / "results"
    file = a_sweep(here / "mine.yaml", "exp1")
    launched(root, file, "exp1")
    assert sweep_to_launch("exp1", root) == str(file)
    assert sweep_to_launch("demo", root) == "demo"
    assert sweep_to_launch("mine.yaml", root) == "mine.yaml"
    file.unlink()
    with pytest.raises(UserError, match=r"exp1: launched here from .*mine\.yaml, which is gone"):
        sweep_to_launch("exp1", root)
    shutil.rmtree(root / "sweeps" / "exp1" / "launches")
    with pytest.raises(UserError, match="exp1: launched here, but from which file is not on record"):
        sweep_to_launch("exp1", root)


def test_where_two_sweeps_share_a_name_neither_is_taken_for_the_other(here):
    root, file = here / "results", a_sweep(here / "mine.yaml", "demo")
    launched(root, file, "demo")
    with pytest.raises(UserError, match=r"demo: the shipped sweep .*sweeps/demo\.yaml, or .*mine\.yaml"):
        sweep_to_launch("demo", root)
    assert sweep_to_launch("demo", root, again=True) == str(file), "retry is of what was launched"
    shutil.rmtree(root)
    launched(root, shipped_folder("sweeps") / "demo.yaml", "demo")
    assert sweep_to_launch("demo", root) == sweep_to_launch("demo", root, again=True) == "demo"


def test_a_shipped_sweep_goes_by_its_shipped_name_and_by_its_own(here):
    root = here / "results"
    launched(root, shipped_folder("sweeps") / "paper" / "vision.yaml", "paper_vision")
    assert sweep_name("paper/vision", root) == sweep_name("paper_vision", root) == "paper_vision"
    assert sweep_to_launch("paper_vision", root) == "paper/vision"
