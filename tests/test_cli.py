"""The command line as a user meets it: help without slow imports, mistakes in one message with exit code 2."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tensloradist.cli import main

COMMANDS = ("plan", "spectra", "params", "fetch", "launch", "status", "cancel", "hold", "report", "compare", "explain")
COMMANDS += ("reproduce", "efficiency", "bundle", "run", "evaluate", "export", "profiles", "doctor")
RUN = """
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
adapter: {grouping: qkv_depth, ranks: 2}
optimizer: {epochs: 1, batch_size: 64, learning_rate: 1e-2}
compute: {device: cpu, threads: 1}
"""


def cli(*arguments, cwd=None, **environment):
    command = [sys.executable, "-m", "tensloradist", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


@pytest.fixture
def mistaken(monkeypatch, tmp_path, capsys):
    """What a command says of a mistake, in this process: to start one takes longer than to find most mistakes."""

    def command(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tensloradist", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        return capsys.readouterr().err

    return command


SLOW = ("torch", "transformers", "numpy", "pandas", "scipy", "datasets", "matplotlib", "huggingface_hub", "submitit")


HELP = """
import contextlib, io, json, sys
import tensloradist.cli
shown = {}
for command in json.loads(sys.argv[1]):
    sys.argv = ["tensloradist", *command.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        tensloradist.cli.main()
    shown[command] = out.getvalue(), sorted(sys.modules)
print(json.dumps(shown))
"""


def test_help_has_examples_and_imports_nothing_slow():
    """In one process: each command shows what it has imported besides those before it."""
    command = [sys.executable, "-c", HELP, json.dumps(["", *COMMANDS])]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert shown.keys() == {"", *COMMANDS}
    for name, (text, modules) in shown.items():
        assert "tensloradist " in text and ("Example" in text or not name), name
        assert not {*SLOW} & {*modules}, name


WAITING_PLUGIN = """
import os, time
from dataclasses import replace
from pathlib import Path
from tensloradist.tasks import TASKS

def load(task, backbone, protocol):
    loaded = TASKS["digits"].load(task.model_copy(update={"name": "digits"}), backbone, protocol)
    batch = loaded.train.batch

    def waiting(indices, augment):
        if augment is not None and augment[1] == 1:
            Path(os.environ["REACHED"]).touch()
            while not Path(os.environ["GO_ON"]).exists():
                time.sleep(0.01)
        return batch(indices, augment)

    loaded.train.batch = waiting
    return loaded

TASKS["waiting_digits"] = replace(TASKS["digits"], name="waiting_digits", load=load)
"""


@pytest.mark.parametrize("imported", ["importlib.metadata", "typer", "tensloradist.errors"])
def test_ctrl_c_during_an_import_leaves_no_traceback(imported):
    code = f"""
import signal, sys

class Interrupts:
    def find_spec(name, path=None, target=None):
        if name == {imported!r}:
            signal.raise_signal(signal.SIGINT)

sys.modules.pop({imported!r}, None)
sys.meta_path.insert(0, Interrupts)
sys.argv = ["tensloradist", "run"]
from tensloradist.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(run_file, tmp_path):
    """A real SIGINT in the second of two epochs, whose batches wait for the test."""
    (tmp_path / "waiting_plugin.py").write_text(WAITING_PLUGIN)
    reached, go_on = tmp_path / "reached", tmp_path / "go on"
    around = {"PYTHONPATH": str(tmp_path), "REACHED": str(reached), "GO_ON": str(go_on)}
    fields = ["plugins=[waiting_plugin]", "task.name=waiting_digits", "optimizer.epochs=2"]
    command = ["run", run_file, *fields, "--results", tmp_path / "r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensloradist", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **around},
    )
    try:
        while not reached.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = ""
        while "stopping after this step with a checkpoint" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert "epoch 1, step 9 of 18: validation accuracy" in said
        go_on.touch()
        _, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted: step 10 of 18 is kept, and it goes on from there with" in errors and "Traceback" not in errors
    assert shlex.split(errors.splitlines()[-1]) == ["tensloradist", *map(str, command)]

    second = cli(*command, **around)
    assert second.returncode == 0, second.stderr
    assert "goes on after step 10, from attempt 1" in second.stdout and "finished: test accuracy" in second.stdout


def test_a_run_and_again(run_file, tmp_path):
    first = cli("run", run_file, "--results", tmp_path / "r")
    assert first.returncode == 0, first.stderr
    assert "finished: test accuracy" in first.stdout
    parts = "digits: 537 training, 180 validation, 179 test examples (60/20/20 % of the embedded digits)"
    assert first.stdout.splitlines()[1] == parts
    assert "epoch 1, step 9 of 9: validation accuracy" in first.stderr
    again = cli("run", run_file, "--results", tmp_path / "r")
    assert again.returncode == 0 and "has a result already" in again.stdout
    other = cli("run", run_file, "seed=1", "adapter.ranks=3", "--results", tmp_path / "r")
    assert other.returncode == 0 and "finished" in other.stdout
    runs = list((tmp_path / "r/runs").iterdir())
    assert len(runs) == 2
    shown = cli("evaluate", runs[0])
    assert shown.returncode == 0 and "179 examples" in shown.stdout
    shown = cli("export", runs[0], tmp_path / "lora", "--to", "peft")
    assert shown.returncode == 0 and "written" in shown.stdout, shown.stderr
    assert {p.name for p in (tmp_path / "lora").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    again = cli("export", runs[0], tmp_path / "lora", "--to", "merged")
    assert again.returncode == 2 and "is not empty" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["adapter.groping=att"], "adapter.groping: unknown key. Did you mean 'grouping'"),
        (["adapter.grouping=qkv_dept"], "Did you mean 'qkv_depth'"),
        (["adapter.ranks=0"], "adapter.ranks"),
        (["backbone={name: /no/such/model}"], "/no/such/model"),
        (["optimizer.batch_size=100000"], "batch_size: 100000 exceeds the 537"),
        (["optimizer.lr_multipliers={cores: 2}"], "no parameter group 'cores'"),
        (["task.name=digit"], "Did you mean 'digits'"),
        (["compute.device=cuda"], "compute.device: 'cuda'"),
        (["nonsense"], "field=value"),
        (["plugins=[not_there]"], "not_there"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(run_file, tmp_path, monkeypatch, mistaken, overrides, says):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    shown = mistaken("run", run_file, "backbone.random_init=true", *overrides, "--results", tmp_path / "r")
    assert says in shown and shown.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.glob("r/runs/*/result.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no.yaml"], "no.yaml"),
        (["plan", "no.yaml"], "no such file"),
        (["plan", "dmeo"], "Did you mean 'demo'"),
        (["report", "demo", "--out", "x", "--results", "empty"], "has not been launched"),
        (["report", "demo"], "--out is needed: a folder for the page"),
        (["report", "demo", "--only", "table"], "Did you mean 'tables'"),
        (["report", "demo", "--only", "tables", "--format", "markdwn"], "Did you mean 'markdown'"),
        (["report", "demo", "--only", "tables", "--format", "parquet"], "Unknown format 'parquet'"),
        (["report", "demo", "--only", "tables", "--out", "x"], "--out needs a --format"),
        (["report", "demo", "--only", "figures", "--out", "x", "--kind", "curve"], "Did you mean 'curves'"),
        (["report", "demo", "--only", "figures"], "--out is needed: a folder for the figures"),
        (
            ["report", "demo", "--only", "tables", "--kind", "curves"],
            "--kind: not for --only tables; it is for",
        ),
        (
            ["report", "demo", "--only", "results", "--margin", "0"],
            "--margin: not for --only results",
        ),
        (
            ["report", "demo", "--out", "x", "--format", "csv"],
            "--format: not for the whole report",
        ),
        (["report", "demo", "--only", "figures", "--columns"], "--columns: not for --only figures"),
        (["explain", "3fa1", "--attempt", "2"], "--attempt: only with --log"),
        (["explain", "3fa1", "--log", "--sweep", "demo"], "--sweep: only for a cell"),
        (["explain", "3fa1", "07bc", "--log"], "--log: of one run"),
        (["explain", "3fa1"], "run '3fa1': none in"),
        (["explain", "lora"], "--sweep is needed"),
        (["hold", "demo", "--release", "--reason", "x"], "--reason: not with --release"),
        (["launch", "demo", "--failed", "--results", "empty"], "has not been launched"),
        (["launch", "--failed", "demo"], "Missing argument 'SWEEP'"),
        (["evaluate", "nowhere"], "no spec.json"),
        (["export", "nowhere", "out"], "no spec.json"),
        (["export", "nowhere", "out", "--to", "pefd"], "Did you mean 'peft'"),
        (["spectra", "dmeo"], "Did you mean 'demo'"),
        (["params", "--shape", "vit_bas"], "Did you mean 'vit_base'"),
        (["params"], "give --shape"),
        (["params", "--shape", "vit_base", "--factorization", "tuker"], "Did you mean 'tucker'"),
        (["lanch"], "lanch"),
        (["plan", "demo", "--jsn"], "--jsn"),
        (["plan", "demo", "--gpu", "h100"], "only with --memory"),
    ],
)
def test_mistakes_of_commands(tmp_path, mistaken, arguments, says):
    assert says in mistaken(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("a: [", "line 1"), ("- 1", "mapping")])
def test_broken_run_files(tmp_path, mistaken, text, says):
    (tmp_path / "run.yaml").write_text(text)
    assert says in mistaken("run", "run.yaml")


def test_an_adapter_that_cannot_be_is_refused_before_anything_is_claimed(run_file, tmp_path):
    """In a process of its own, as a user starts it: one message, no traceback, and exit code 2."""
    shown = cli("run", run_file, "adapter.ranks={input: 2}", "--results", tmp_path / "r")
    assert shown.returncode == 2 and "no rank for ['output', 'projection', 'depth']" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not (tmp_path / "r" / "runs").exists()


def test_params_show_what_does_not_fit_among_what_does():
    sizes = ("--d-in", "64", "--heads", "8", "--kv-heads", "2", "--layers", "2", "--rank", "4")
    shown = json.loads(cli("params", *sizes, "--presets", "--json").stdout)["rows"]
    by_name = {row["method"]: row for row in shown}
    assert "lorta_peft does not fit this backbone: head_side 'input'" in by_name["lorta_peft"]["error"]
    assert by_name["lorta"]["isorank"] > 0 and len(by_name) == 9
    table = cli("params", *sizes, "--presets")
    assert table.returncode == 0 and "does not fit" in table.stdout


def test_params_count_as_the_official_table():
    shown = cli("params", "--shape", "vit_base", "--rank", "4")
    assert shown.returncode == 0
    for number in ("221,184", "123,840", "6,460", "4,460"):
        assert number in shown.stdout
    assert "\x1b[" not in shown.stdout, "no colours in a pipe"


def test_doctor(tmp_path):
    shown = cli("doctor", "--results", tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.count("ok") >= 5 and "gloo" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_fetch_of_a_local_sweep():
    shown = cli("fetch", "demo")
    assert shown.returncode == 0 and "available offline" in shown.stdout


def test_a_missing_extra_is_named_before_anything_is_written(tmp_path):
    """As on a machine with the library and the commands, but without submitit."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "submitit.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'submitit'\", name='submitit')\n"
    )
    command = [sys.executable, "-m", "tensloradist.cli", "launch", "demo", "--results", str(tmp_path / "results")]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "blocked")}
    shown = subprocess.run(command, env=env, capture_output=True, text=True)
    assert shown.returncode == 2 and "tensloradist[slurm]" in shown.stderr and "Traceback" not in shown.stderr
    assert not (tmp_path / "results").exists()


def test_a_decoder_runs_with_a_cold_cache(tmp_path):
    """Whatever its backbone, the first command is the one that imports transformers' classes."""
    from tensloradist.tasks.examples import language_backbone, language_folder

    data = {
        "backbone": language_backbone(tmp_path).model_dump(),
        "task": language_folder(tmp_path).model_dump(),
        "adapter": {"grouping": "qkv_depth", "ranks": 2},
        "optimizer": {"epochs": 1, "batch_size": 8},
        "compute": {"device": "cpu", "threads": 1},
    }
    (tmp_path / "run.json").write_text(json.dumps(data))
    cold = {"TENSLORADIST_CACHE": str(tmp_path / "cache")}
    shown = cli("run", tmp_path / "run.json", "--results", tmp_path / "results", **cold)
    assert shown.returncode == 0 and "finished: test" in shown.stdout, shown.stderr
