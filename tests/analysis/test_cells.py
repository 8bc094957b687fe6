"""A cell's address and its story; two methods and two runs compared; a run trained again."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from analysis.address import parse, parse_name
from analysis.build import analyse
from analysis.cli.showing import explanation_lines
from analysis.comparison import compare_methods
from analysis.explanation import explain
from analysis.load import load
from analysis.model import Address
from analysis.reproduction import reproduce
from analysis.run_comparison import compare_runs
from tensloradist.errors import UserError
from tensloradist.metrics import METRICS
from tensloradist.spec import RunSpec

NAMES = [
    Address(backbone, condition, row, task)
    for backbone in ("deit_tiny",)
    for condition in ("isorank r=4", "isorank r=8", "isoparameter r=4")
    for row in (
        "lora",
        "lora scale=2.0",
        "att tucker",
        "qkv_depth tucker",
        "qkv_depth cp",
        "qkv projections=['query', 'value']",
    )
    for task in ("dtd", "cub")
]


@pytest.mark.parametrize(
    ("text", "row", "condition"),
    [
        ("qkv_depth tucker, dtd, isorank 4", "qkv_depth tucker", "isorank r=4"),
        ("isorank r=8, DTD , att", "att tucker", "isorank r=8"),
        ("lora, dtd, isoparameter 4, deit_tiny", "lora", "isoparameter r=4"),
        ("lora scale=2.0, dtd, isoparameter", "lora scale=2.0", "isoparameter r=4"),
        ("qkv projections=['query', 'value'], dtd, isorank 4", "qkv projections=['query', 'value']", "isorank r=4"),
    ],
)
def test_addresses(text, row, condition):
    assert parse(text, NAMES) == Address("deit_tiny", condition, row, "dtd")


@pytest.mark.parametrize("address", NAMES, ids=str)
def test_every_address_finds_itself(address):
    assert parse(str(address), NAMES) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qkv_dept, dtd, isorank 4", "Did you mean 'qkv_depth"),
        ("att, dtdd, isorank 4", "Did you mean 'dtd'"),
        ("att, dtd, isorank 5", "'isorank 5' is not a method"),
        ("qkv_depth, dtd, isorank 4", "matches 2 cells"),
        ("att, dtd", "matches 3 cells"),
        ("att, lora, dtd, cub", "no cell matches all of these"),
        (" , ", "empty address"),
    ],
)
def test_addresses_that_mean_no_cell_or_several(text, says):
    with pytest.raises(UserError) as refused:
        parse(text, NAMES)
    assert says in str(refused.value)


def test_methods_by_their_first_words():
    rows = ["lora", "lora scale=2.0", "att tucker", "qkv tucker", "qkv cp"]
    assert [parse_name(text, "method", rows) for text in ("lora", "att", "qkv cp")] == ["lora", "att tucker", "qkv cp"]
    for text, says in (("qkv", "matches 2 methods"), ("atr", "Did you mean 'att tucker'"), ("", "Unknown")):
        with pytest.raises(UserError, match=says):
            parse_name(text, "method", rows)


def three(folder, row, values, **more):
    for seed, value in enumerate(values):
        folder.add(row, seed, value, **more)


def test_the_story_of_a_cell_names_its_runs_and_what_was_tried(folder):
    three(folder, "lora", (0.8, 0.82, 0.81))
    three(folder, "att tucker", (0.83, 0.84, 0.86))
    three(folder, "att tucker", (0.7, 0.7, 0.7), rate=1e-2)
    folder.add("att tucker", 3, state="failed")
    folder.write()
    analysis = analyse(load("s", folder.root))
    address = parse("att, dtd", analysis.addresses())
    found = explain(analysis, address)
    assert [(run.seed, run.state, run.score) for run in found.runs][:3] == [
        (0, "finished", 0.83),
        (1, "finished", 0.84),
        (2, "finished", 0.86),
    ]
    assert found.runs[3].state == "failed" and "it broke" in found.runs[3].cause
    assert found.runs[3].attempts[0].line == "bug: it broke" and found.runs[0].attempts[0].line == "has a result"
    assert "seed" not in found.spec and found.spec["optimizer"]["learning_rate"] == 1e-3
    text = "\n".join(explanation_lines(found))
    assert "learning_rate 0.01: 70.00" in text and "+3.33" in text and found.reproduce in text


def test_two_methods_are_compared_in_all_cells_or_it_is_said_why_not(folder):
    three(folder, "att tucker", (0.83, 0.84, 0.86))
    three(folder, "qkv tucker", (0.80, 0.82, 0.81))
    three(folder, "att tucker", (0.83, 0.84, 0.86), task="cub", fingerprints={"head": "other"})
    three(folder, "qkv tucker", (0.83, 0.84, 0.86), task="cub")
    three(folder, "att tucker", (0.5,), conditions=("isoparameter r=4",), rate=1.0)
    folder.write()
    found = {
        (c.condition, c.task): c for c in compare_methods(analyse(load("s", folder.root)), "att tucker", "qkv tucker")
    }
    same = found["isorank r=4", "dtd"]
    assert same.difference.effect == pytest.approx(0.1 / 3) and same.difference.p_holm == same.difference.p == 0.25
    assert "differ in head" in found["isorank r=4", "cub"].why_not
    assert "qkv tucker not planned" in found["isoparameter r=4", "dtd"].why_not


def answered(folder, seed, outputs, metric="exact_match"):
    """A run of a language model, with its stored predictions."""
    run = folder.add("lora", seed)
    result = json.loads(run.result.read_text())
    result["metrics"]["primary"] = metric
    run.result.unlink()
    run.result.write_text(json.dumps(result))
    tensors = {"test.logits": np.array(outputs, dtype=np.float32), "test.labels": np.array([2, 1, 3, 2])}
    save_file(tensors, run.attempt(1) / "predictions.safetensors", {"ids": json.dumps({"test": list("abcd")})})
    return run.run_id


def test_two_language_models_are_compared_by_their_answers(folder):
    """Columns of the outputs: nats, tokens, and whether the answer is matched exactly."""
    one = answered(folder, 0, [[1, 2, 1], [1, 1, 1], [1, 3, 1], [4, 2, 0]])
    two = answered(folder, 1, [[3, 2, 0], [2, 1, 0], [1, 3, 1], [1, 2, 1]])
    found = compare_runs(folder.root, one, two)
    assert found.metric == "exact_match" and found.scores == (0.75, 0.5) and found.difference.value == 0.25
    m = found.mcnemar
    assert (m.both, m.only_first, m.only_second, m.neither, m.p) == (1, 2, 1, 0, 1.0)


PLUGIN = """
from tensloradist.metrics import METRICS, Metric

METRICS["loudness"] = Metric(
    name="loudness", compute=lambda outputs, labels: float(outputs[:, 0].mean()), range=(0.0, 9.0), pool="decibels",
    correct=lambda outputs, labels: outputs[:, 0] > 1,
)
"""


def test_the_metric_of_a_plugin_is_compared_once_it_is_registered(folder, tmp_path, monkeypatch):
    one = answered(folder, 0, [[1, 0], [2, 0], [3, 0], [4, 0]], metric="loudness")
    two = answered(folder, 1, [[1, 0], [1, 0], [1, 0], [1, 0]], metric="loudness")
    with pytest.raises(UserError, match="metric 'loudness' is not registered, .* known: accuracy, .*exact_match"):
        compare_runs(folder.root, one, two)
    (tmp_path / "loudness_plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    spec = {"backbone": {"name": "digits_vit", "source": "digits_vit"}, "task": {"name": "digits"}}
    spec |= {"adapter": {"grouping": "qkv", "ranks": 2}, "plugins": ["loudness_plugin"]}
    (folder.root / "runs" / one / "spec.json").write_text(RunSpec.model_validate(spec).model_dump_json())
    try:
        found = compare_runs(folder.root, one, two)
    finally:
        METRICS.pop("loudness", None)
    assert found.scores == (2.5, 1.0) and found.difference.value == 1.5
    assert (found.mcnemar.only_first, found.mcnemar.neither) == (3, 1)


SWEEP = """
name: tiny
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora, {tenslora: {grouping: qkv_depth}}]
conditions: [{isorank: [2]}]
seeds: 1
optimizer: {epochs: 1, batch_size: 128, learning_rate: 1.0e-2}
compute: {device: cpu, threads: 1}
"""


def cli(*arguments, **environment):
    command = [sys.executable, "-m", "tensloradist.cli", *map(str, arguments)]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", **environment})
    return shown


def test_from_real_runs_to_the_numbers_behind_a_table(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    root = tmp_path / "results"
    launched = cli("launch", tmp_path / "tiny.yaml", "--workers", "1", "--results", root)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    cell = "lora, digits, isorank 2"
    explained = cli("explain", cell, "--results", root)
    assert explained.returncode == 0 and "attempt 1:" in explained.stdout and "finished after" in explained.stdout
    assert json.loads(cli("explain", cell, "--json", "--results", root).stdout)["runs"][0]["state"] == "finished"

    frame = load("tiny", root).frame.set_index("row")
    first, second = frame.loc["lora", "run_id"], frame.loc["qkv_depth tucker", "run_id"]
    found = compare_runs(root, first, second[:8])
    assert found.scores == pytest.approx((frame.loc["lora", "score"], frame.loc["qkv_depth tucker", "score"]))
    m = found.mcnemar
    assert m.both + m.only_first + m.only_second + m.neither == found.examples == 179
    assert found.difference.value == pytest.approx(np.subtract(*found.scores))
    assert "McNemar's exact p" in cli("compare", first, second, "--results", root).stdout
    assert "too few for a corrected test" in cli("compare", "qkv_depth", "lora", "--results", root).stdout
    with pytest.raises(UserError, match="none in"):
        compare_runs(root, "ffff", second)

    original = (root / "runs" / first / "result.json").read_bytes()
    again = cli("reproduce", cell, "--results", root)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "exactly the same score" in again.stdout and "/reproductions/" in again.stdout
    assert (root / "runs" / first / "result.json").read_bytes() == original
    analysis = analyse(load("tiny", root))
    address = parse(cell, analysis.addresses())
    with pytest.raises(UserError, match="scores for the seeds 0"):
        reproduce(analysis, address, 5, None, print)
    exported = cli("report", "tiny", "--only", "results", "--results", root)
    assert pd.read_csv(pd.io.common.StringIO(exported.stdout))["score"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "lora"], "--sweep is needed"),
        (["compare", "att", "lora"], "--sweep is needed"),
        (["reproduce", "lora", "--sweep", "nothing"], "Unknown launched sweep"),
        (["report", "demo", "--only", "results", "--format", "xlsx"], "Unknown format 'xlsx'"),
        (["report", "demo", "--only", "results", "--format", "parquet"], "give a file with --out"),
    ],
)
def test_mistakes_are_one_message(tmp_path, arguments, says):
    shown = cli(*arguments, "--results", tmp_path)
    assert shown.returncode == 2 and says in shown.stderr and "Traceback" not in shown.stderr
