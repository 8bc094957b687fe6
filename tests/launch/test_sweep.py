"""Expansion and planning: cells, axes, shared runs, order, budgets, refusals, and 10,000 runs in seconds."""

import json
import time

import pytest

from launch.local.workers import LocalLaunch, default_workers
from launch.planning.plan import as_json, check, rank_notes, write_manifest
from launch.planning.sweep_file import load_sweep
from launch.records.submission import Submission
from tensloradist import trackers
from tensloradist.errors import UserError
from tensloradist.presets import PRESETS
from tensloradist.results.schema import Manifest

DIGITS = """
name: test
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora, {tenslora: {grouping: [att, qkv_depth]}}]
conditions:
  - isorank: [4]
  - isoparameter: {lora_rank: [4]}
seeds: 2
optimizer: {epochs: 1, batch_size: 32, learning_rate: [5e-4, 2e-3]}
"""


@pytest.fixture
def sweep(tmp_path):
    def write(text=DIGITS, **replacements):
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return str(path)

    return write


def edited(sweep, old, new):
    assert old in DIGITS
    return sweep(DIGITS.replace(old, new))


def test_identical_runs_of_two_conditions_are_one(sweep):
    runs = load_sweep(sweep()).runs
    assert len(runs) == 2 * 2 * (1 + 2 * 2)  # seeds × rates × (lora once, two groupings in two conditions)
    assert len({run.run_id for run in runs}) == len(runs)
    lora = [run for run in runs if run.row == "lora"]
    assert all([m.condition for m in run.conditions] == ["isorank r=4", "isoparameter r=4"] for run in lora)


def test_seed_major_order(sweep):
    seeds = [run.spec.seed for run in load_sweep(sweep()).runs]
    assert seeds == sorted(seeds)


def test_axes_lists_and_fields_that_are_lists_by_nature(sweep):
    text = edited(sweep, "{grouping: [att, qkv_depth]}", "{grouping: att, projections: [query, value]}")
    assert {run.spec.adapter.projections for run in load_sweep(text).runs if run.row != "lora"} == {("query", "value")}
    text = edited(
        sweep, "{grouping: [att, qkv_depth]}", "{grouping: att, projections: [[query, value], [query, key, value]]}"
    )
    assert len({run.row for run in load_sweep(text).runs}) == 3
    text = edited(sweep, "{grouping: [att, qkv_depth]}", "{grouping: att, head_layout: [aligned, official]}")
    assert {run.row for run in load_sweep(text).runs} == {
        "lora",
        "att tucker aligned",
        "att tucker official",
    }
    text = edited(sweep, "{grouping: [att, qkv_depth]}", "{grouping: att, scale: [1, 2]}")
    assert {run.spec.adapter.scale for run in load_sweep(text).runs} == {1.0, 2.0}
    text = edited(sweep, "seeds: 2", "seeds: [3, 7]\nprecision: [fp32, bf16]")
    runs = load_sweep(text).runs
    assert {run.spec.seed for run in runs} == {3, 7} and len({run.row for run in runs}) == 6


def test_every_preset_and_reference_is_one_line(sweep, tmp_path):
    names = [*PRESETS, "full", "head"]
    runs = load_sweep(edited(sweep, "[lora, {tenslora: {grouping: [att, qkv_depth]}}]", f"[lora, {', '.join(names)}]"))
    assert {run.row for run in runs.runs} == {"lora", *names}
    for run in runs.runs:
        assert run.spec.adapter.method == run.row and run.run_id == run.spec.run_id
        if run.row in ("full", "head"):  # one run, a reference in every condition
            assert [m.condition for m in run.conditions] == ["isorank r=4", "isoparameter r=4"]
            assert run.adapter_parameters == (77_040 if run.row == "full" else 0)
    check(runs, tmp_path)
    rows = {
        "[{lora: {alpha: 16, rslora: [false, true]}}]": {"lora alpha=16 rslora=False", "lora alpha=16 rslora=True"},
        "[{cara: {targets: [query, attention_output]}}]": {"cara targets=query+attention_output"},
        "[{lotr: {targets: original, alpha: [1, 4]}}]": {
            "lotr targets=original alpha=1",
            "lotr targets=original alpha=4",
        },
        "[{tenslora: {grouping: att, factorization: [cp, tt]}}]": {"att cp", "att tt"},
    }
    for methods, expected in rows.items():
        text = edited(sweep, "[lora, {tenslora: {grouping: [att, qkv_depth]}}]", methods)
        assert {run.row for run in load_sweep(text).runs} == expected
    with pytest.raises(UserError, match="Did you mean 'fact_tt'"):
        load_sweep(edited(sweep, "[lora, {tenslora", "[fact_t, {tenslora"))


def test_axes_inside_mappings_scalars_for_lists_and_the_other_spellings(sweep):
    text = edited(sweep, "[5e-4, 2e-3]", "1e-3, lr_multipliers: {core: [1.0, 2.0], factors: 3.0}")
    found = {tuple(run.spec.optimizer.lr_multipliers.items()) for run in load_sweep(text).runs}
    assert found == {(("core", 1.0), ("factors", 3.0)), (("core", 2.0), ("factors", 3.0))}
    ids = {run.run_id for run in load_sweep(sweep()).runs}
    text = DIGITS.replace("[4]}", "4}").replace("isorank: [4]", "isorank: 4")
    text = text.replace("backbone: {", "backbones: [{").replace("name: digits_vit}", "name: digits_vit}]")
    text = text.replace("task: {name: digits}", "tasks: [{name: digits}]")
    assert {run.run_id for run in load_sweep(sweep(text)).runs} == ids


def test_workers_follow_the_cores_and_the_threads_that_runs_ask_for(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    for compute, workers in (
        ("{}", 8),
        ("{threads: 4}", 3),
        ("{threads: 24}", 1),
        ("{strategy: ddp, processes: 2}", 1),
    ):
        plan = check(load_sweep(sweep(DIGITS + f"compute: {compute}\n")), tmp_path)
        assert default_workers(plan) == workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert default_workers(check(load_sweep(sweep()), tmp_path)) == 2
    assert default_workers(check(load_sweep(sweep(DIGITS + "compute: {device: cpu}\n")), tmp_path)) == 8


@pytest.mark.parametrize(("compute", "sharing"), [("{}", 3), ("{device: cpu}", 1)])
def test_workers_that_share_a_gpu_here_are_counted(sweep, tmp_path, monkeypatch, compute, sharing):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    plan = check(load_sweep(sweep(DIGITS + f"compute: {compute}\n")), tmp_path)
    assert Submission.read(LocalLaunch(plan, tmp_path, workers=5).submission).workers_per_gpu == sharing


def test_all_groupings(sweep):
    text = edited(sweep, "{grouping: [att, qkv_depth]}", "{grouping: all}")
    assert len({run.row for run in load_sweep(text).runs}) == 8


def test_the_plan_as_json_has_the_promised_fields(sweep, tmp_path):
    plan = check(load_sweep(sweep()), tmp_path)
    data = json.loads(as_json(plan))["runs"]
    assert [run["run_id"] for run in data] == [run.run_id for run in plan.sweep.runs]
    promised = {
        "run_id",
        "conditions",
        "condition",
        "method",
        "grouping",
        "factorization",
        "ranks",
        "seed",
        "adapter_parameters",
        "budget",
        "residual",
    }
    for run in data:
        assert promised <= run.keys() and run["condition"] == run["conditions"][0]
        assert run["residual"] == pytest.approx(run["adapter_parameters"] / run["budget"] - 1)
        if run["condition"].startswith("isoparameter"):
            assert abs(run["residual"]) <= 0.02
        else:
            assert set(run["ranks"].values()) == {4}


def test_ranks_beyond_what_the_matrices_can_have_are_noted_once_a_kind(sweep):
    assert rank_notes(load_sweep(sweep())) == []
    notes = rank_notes(load_sweep(edited(sweep, "isorank: [4]", "isorank: [4, 500]")))
    assert len(notes) == 1 and notes[0].startswith("lora, att tucker, qkv_depth tucker: ranks: 500 exceeds ")


def test_a_tracker_that_is_not_installed_is_refused_by_the_plan(sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.MODULES, "wandb", ("no_such_module",))
    with pytest.raises(UserError, match="compute.log_with: wandb is not installed here; run pip install wandb"):
        check(load_sweep(sweep(DIGITS + "compute: {log_with: [wandb]}\n")), tmp_path)


def test_manifests_are_immutable_and_named_by_content(sweep, tmp_path):
    plan = load_sweep(sweep())
    first, again = write_manifest(plan, tmp_path), write_manifest(plan, tmp_path)
    assert first == again
    manifest = Manifest.model_validate_json(first.read_text())
    assert len(manifest.runs) == len(plan.runs)
    other = write_manifest(load_sweep(edited(sweep, "seeds: 2", "seeds: 3")), tmp_path)
    assert other != first and first.exists()
    assert (tmp_path / "sweeps/test/latest").read_text().strip() == other.stem


def test_ten_thousand_runs_are_planned_in_seconds(sweep, tmp_path):
    text = DIGITS.replace("grouping: [att, qkv_depth]", "grouping: all").replace("seeds: 2", "seeds: 42")
    text = text.replace("isorank: [4]", "isorank: [1, 2, 4, 8]").replace("lora_rank: [4]", "lora_rank: [1, 2, 4, 8]")
    text = text.replace("[5e-4, 2e-3]", "[1e-4, 5e-4, 1e-3, 2e-3]")
    load_sweep(sweep())  # importing torch and the libraries is not planning
    began = time.process_time()
    plan = check(load_sweep(sweep(text)), tmp_path)
    json.loads(as_json(plan))
    write_manifest(plan.sweep, tmp_path)
    assert len(plan.sweep.runs) >= 10_000
    assert time.process_time() - began < 10


def tasks_of(sweep, tasks):
    """The labels of a sweep's tasks, each with the fields that a test asks for."""
    return {run.task: run.spec.task for run in load_sweep(edited(sweep, "{name: digits}", tasks)).runs}


def test_parts_of_one_name_are_told_apart_by_the_fields_that_differ(sweep):
    listed = tasks_of(sweep, "[{name: digits}, {name: digits, train_examples: 200}]")
    assert {label: task.train_examples for label, task in listed.items()} == {
        "digits": None,
        "digits [train_examples=200]": 200,
    }
    axis = "{name: digits, train_examples: [100, 200]}"
    assert set(tasks_of(sweep, axis)) == {"digits [train_examples=100]", "digits [train_examples=200]"}
    mixed = tasks_of(sweep, "[{name: digits, train_examples: [100, 200]}, {name: digits, split_seed: 1}]")
    assert set(mixed) == {
        "digits [train_examples=100]",
        "digits [train_examples=200]",
        "digits [split_seed=1]",
    }
    text = edited(sweep, "{source: digits_vit, name: digits_vit}", "[{source: digits_vit, name: digits_vit}]")
    assert {run.backbone for run in load_sweep(text).runs} == {"digits_vit"}, "alone, nothing sets it apart"


def text_files(folder, *places):
    for index, place in enumerate(places):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text("".join(f"{index} and {n}\t{n}\n" for n in range(20)))


def test_data_of_one_base_name_is_told_apart_by_its_path(sweep, tmp_path):
    text_files(tmp_path, "a/1/questions.txt", "b/1/questions.txt", "b/1/1/questions.txt", "other.txt")
    data = "data: [a/1/questions.txt, b/1/questions.txt, b/1/1/questions.txt, other.txt]"
    found = {task.data: label for label, task in tasks_of(sweep, f"{{name: causal_lm, {data}}}").items()}
    assert found == {
        str(tmp_path / "a/1/questions.txt"): "questions [data=a]",
        str(tmp_path / "b/1/questions.txt"): "questions [data=b]",
        str(tmp_path / "b/1/1/questions.txt"): "questions [data=b/1]",
        str(tmp_path / "other.txt"): "other",
    }


def test_cells_that_no_label_tells_apart_are_refused_by_field_and_values(sweep, tmp_path):
    text_files(tmp_path, "q.txt", "q [max_length=9].jsonl")
    (tmp_path / "q [max_length=9].jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 20)
    with pytest.raises(UserError) as refused:
        tasks_of(
            sweep,
            "[{name: causal_lm, data: q.txt, max_length: [8, 9]}, {name: causal_lm, data: 'q [max_length=9].jsonl'}]",
        )
    said = str(refused.value)
    assert "two different runs would stand in the cell 'lora, digits_vit, q [max_length=9], isorank r=4'" in said
    assert f"task.data is '{tmp_path}/q.txt' and '{tmp_path}/q [max_length=9].jsonl'" in said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds: 2", "seed: 2", "seed: unknown key. Did you mean 'seeds'"),
        ("seeds: 2", "seeds: 0", "seeds"),
        ("seeds: 2", "seeds: [1, 1]", "names one twice"),
        ("[att, qkv_depth]", "[att, qkv_dept]", "qkv_dept.*Did you mean 'qkv_depth'"),
        ("isorank: [4]", "isorank: [0]", "isorank"),
        ("isorank: [4]", "isorankk: [4]", "Did you mean 'isorank'"),
        ("lora,", "lorra,", "Unknown method 'lorra'. Did you mean 'lora'"),
        ("lora_rank: [4]", "lora_rank: [4], strategy: balance", "balance"),
        ("{name: digits}", "{name: digit}", "Did you mean 'digits'"),
        ("source: digits_vit", "source: digits_vot", "Did you mean 'digits_vit'"),
        ("[5e-4, 2e-3]", "[]", r"\.yaml: optimizer\.learning_rate: an empty list"),
        ("epochs: 1", "epoch: 1", "Did you mean 'epochs'"),
        ("{name: digits}", "{name: images, data: /nowhere/at/all}", "no such"),
        ("{name: digits}", "{name: images, data: $NOT_SET_ANYWHERE/x}", "NOT_SET_ANYWHERE"),
        ("grouping: [att, qkv_depth]", "grouping: att, ranks: 3", "ranks come from the conditions"),
        ("name: test", "name: ../test", "name"),
        ("seeds: 2", "seeds: []", "seeds"),
        ("seeds: 2", "seeds: 2\nadapter: {ranks: 3}", "ranks come from the conditions"),
        ("lora,", "lora, lora,", "asked for twice, as lora"),
        ("lora,", "lora, lora: {scale: 1.0},", "asked for twice, as lora scale=1.0, .* and lora,"),
        ("isorank: [4]", "isorank: [4, 4]", "'isorank r=4' is given 2 times"),
        ("{name: digits}", "{name: digits}\ntasks: [{name: digits}]", "both 'task' and 'tasks'"),
        ("seeds: 2", "plugins: [no_such_module_anywhere]", "no_such_module_anywhere"),
        ("epochs: 1", "lr_multipliers: {core: [a, 8]}", r"optimizer\.lr_multipliers\.core: 'a': must be a number"),
        ("epochs: 1", "lr_multipliers: {core: [null, 8]}", r"lr_multipliers\.core: None: must be a number"),
        ("epochs: 1", "1: 2", r"yaml: optimizer: 1 is not a valid key; keys are strings"),
        ("seeds: 2", "~: 2", r"yaml: the whole: None is not a valid key; keys are strings"),
        (
            "{name: digits}",
            f"{{name: images, data: {'a' * 300}}}",
            r"task\.data: 'a+' cannot be .*File name too long",
        ),
        ("{name: digits}", f"{{name: images, data: /ex/{'a' * 300}}}", "task\\.data: .*: no such folder"),
    ],
)
def test_mistakes_are_named(sweep, old, new, says):
    with pytest.raises(UserError, match=says):
        load_sweep(edited(sweep, old, new))


def test_a_folder_in_the_place_of_a_sweep_file_is_called_one(tmp_path):
    (tmp_path / "sweep.yaml").mkdir()
    with pytest.raises(UserError, match=r"sweep\.yaml: a folder; give a file"):
        load_sweep(str(tmp_path / "sweep.yaml"))
    with pytest.raises(UserError, match="no such file"):
        load_sweep(f"{'x' * 300}.yaml")


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("name: [", "line 1"), ("- a", "mapping")])
def test_broken_files(sweep, text, says):
    with pytest.raises(UserError, match=says):
        load_sweep(sweep(text))


def test_an_unknown_sweep_lists_the_shipped_ones():
    with pytest.raises(UserError, match="demo"):
        load_sweep("dmeo")
