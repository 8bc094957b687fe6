"""Specifications: closed, frozen, checked across fields, identified by content."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tensloradist
from tensloradist import spec as spec_module
from tensloradist.compute import ComputeSpec
from tensloradist.errors import UserError
from tensloradist.presets import PRESETS
from tensloradist.spec import METHODS, AdapterSpec, BackboneSpec, OptimizerSpec, RunSpec, TaskSpec
from tensloradist.tasks import TASKS
from tensloradist.validation import validate

LORA = AdapterSpec(method="lora", ranks=2)
BASE = {
    "backbone": {"name": "models/deit", "fingerprint": "b1"},
    "task": {"name": "images", "data": "data/x", "fingerprint": "t1"},
    "adapter": {"grouping": "qkv_depth"},
}


def run(**changes):
    return RunSpec.model_validate({**BASE, **changes})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"adapter": {"grouping": "qkv_dept"}}, "grouping"),
        ({"adapter": {"grouping": "qkv", "ranks": 0}}, "ranks"),
        ({"adapter": {"grouping": "qkv", "ranks": {"input": 0}}}, "ranks"),
        ({"adapter": {"grouping": "qkv", "ranks": 2.5}}, "ranks"),
        ({"adapter": {"method": "lora", "grouping": "qkv"}}, "lora"),
        ({"adapter": {"method": "tenslora"}}, "grouping"),
        ({"adapter": {"method": "lorra"}}, "method"),
        ({"adapter": {"grouping": "qkv", "dropout": 1.0}}, "dropout"),
        ({"adapter": {"grouping": "qkv", "projections": ["query", "query"]}}, "twice"),
        ({"adapter": {"grouping": "qkv", "sibling_draws": "identical"}}, "official"),
        ({"adapter": {"grouping": "qkv", "dropout": 0.1}, "protocol": "official"}, "dropout"),
        ({"adapter": {"method": "fact_tt", "grouping": "qkv"}}, "grouping: fact_tt means 'qkv_depth'"),
        ({"adapter": {"method": "fact_tt", "factorization": "tucker"}}, "factorization: fact_tt means 'tt'"),
        ({"adapter": {"method": "fact_tk", "projections": ["fc1"]}}, "fact_tk has no fc1"),
        (
            {"adapter": {"method": "metatt_4d", "initialization": "original"}},
            "initialization: no 'original' one of metatt_4d",
        ),
        ({"adapter": {"method": "lotr", "alpha": 2, "scale": 2}}, "both given"),
        ({"adapter": {"method": "lora", "rslora": True}}, "rslora"),
        ({"compute": {"strategy": "ddp", "offload": "cpu"}}, "offload: 'cpu' is for zero1 to zero3"),
        ({"compute": {"strategy": "ddp", "processes": 65}}, "batch_size: 64 gives each of compute.processes"),
        (
            {"backbone": {"name": "x", "quantization": "nf4"}, "compute": {"strategy": "zero3", "processes": 2}},
            "zero3 cannot shard weights quantised",
        ),
        ({"adapter": {"method": "lora", "targets": "original"}}, "only presets"),
        ({"adapter": {"method": "lora", "targets": ["query"], "projections": ["query"]}}, "say the same"),
        ({"adapter": {"grouping": "qkv", "initialization": "original"}}, "initialization"),
        ({"adapter": {"grouping": "qkv", "mode_order": ["input"]}}, "mode_order"),
        ({"adapter": {"method": "full", "ranks": 8}}, "takes no ranks"),
        ({"adapter": {"method": "metatt"}}, "Did you mean 'metatt_"),
        ({"optimizer": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"adapter": {"method": "head"}, "task": {"name": "causal_lm"}}, "task causal_lm has none"),
        ({"optimizer": {"epochs": 0}}, "epochs"),
        ({"seeds": 3}, "seeds"),
        ({"compute": {"processes": 2}}, "processes"),
        ({"plugins": ["../evil"]}, "plugins"),
    ],
)
def test_what_is_refused_names_the_field(changes, field):
    with pytest.raises(UserError, match=field):
        run(**changes)


def test_specs_are_frozen():
    with pytest.raises(UserError):
        run().seed = 3


def test_official_protocol_has_its_own_defaults():
    spec = run(protocol="official", task={**BASE["task"], "name": "mrpc"})
    assert (spec.adapter.head_layout, spec.adapter.sibling_draws) == ("official", "identical")
    assert (spec.task.max_length, spec.optimizer.warmup) == (512, 0.1)
    assert (spec.optimizer.epochs, spec.optimizer.batch_size, spec.optimizer.learning_rate) == (10, 64, 5e-4)
    chosen = run(protocol="official", adapter={"grouping": "att", "head_layout": "aligned"})
    assert chosen.adapter.head_layout == "aligned"


def test_a_task_from_a_plugin_brings_its_own_official_settings(monkeypatch):
    official = {"task": {"max_length": 9}, "optimizer": {"epochs": 3, "warmup": 0.5}}
    entry = replace(TASKS["digits"], name="mine", has_head=False, official=official)
    monkeypatch.setitem(TASKS, "mine", entry)
    task = {**BASE["task"], "name": "mine"}
    spec = run(protocol="official", task=task, optimizer={"warmup": 0.2})
    assert (spec.task.max_length, spec.optimizer.epochs, spec.optimizer.warmup) == (9, 3, 0.2)
    assert run(task=task).optimizer == OptimizerSpec() and run(task=task).task.max_length is None
    with pytest.raises(UserError, match="task mine has none"):
        run(task=task, adapter={"method": "head"})


def test_the_specification_names_no_task():
    tree = ast.parse(Path(spec_module.__file__).read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not texts & set(TASKS)


def test_no_identity_without_content():
    with pytest.raises(UserError, match=r"backbone\.fingerprint"):
        _ = run(backbone={"name": "models/deit"}).run_id


def test_round_trip_through_json_keeps_the_identity():
    spec = run(
        adapter={"grouping": "att", "ranks": {"input": 4, "head_dim": 2, "heads": 3}},
        optimizer={"lr_multipliers": {"core": 8}},
    )
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json()).run_id == spec.run_id


def test_defaults_by_method():
    assert AdapterSpec(method="lora").initialization == "kaiming_uniform"
    assert AdapterSpec(grouping="qkv").factorization == "tucker"
    assert OptimizerSpec().weight_decay == 0.01 and ComputeSpec().processes == 1


@pytest.mark.parametrize("fields", [{}, {"scale": 2.0}, {"scale": 1.0}, {"alpha": 8.0}, {"alpha": 8.0, "rslora": True}])
@pytest.mark.parametrize("method", ["lora", *PRESETS])
def test_presets_survive_a_round_trip(method, fields):
    spec = AdapterSpec(method=method, ranks=4, **fields)
    assert AdapterSpec.model_validate_json(spec.model_dump_json()) == spec
    own = PRESETS[method].fields.get("alpha") if method in PRESETS else None
    alpha = None if "scale" in fields else fields.get("alpha", own)
    expected = fields.get("scale", 1.0) if alpha is None else alpha / (2 if "rslora" in fields else 4)
    assert spec.multiplier({"input": 4, "output": 4}) == expected


def test_targets_are_another_word_for_projections():
    assert AdapterSpec(method="lotr", targets="original").projections == ("query", "value")
    assert AdapterSpec(method="lotr", targets=["key"]) == AdapterSpec(method="lotr", projections=["key"])
    assert AdapterSpec(method="cara").projections == ("query", "key", "value")


def test_every_preset_says_what_it_is_and_what_is_left_out():
    for preset in PRESETS.values():
        assert "ΔW" in preset.description or "`" in preset.description
        assert "Parameters: " in preset.description and "Not covered: " in preset.description


@pytest.mark.parametrize(
    "given",
    [
        {"nodes": 2, "processes_per_node": 4},
        {"nodes": 2, "processes": 8},
        {"nodes": 2, "processes_per_node": 4, "processes": 8},
    ],
)
def test_nodes_and_processes_a_node_say_how_many_processes(given):
    compute = ComputeSpec(strategy="zero3", **given)
    assert (compute.processes, compute.nodes, compute.processes_per_node) == (8, 2, 4)
    assert ComputeSpec.model_validate(compute.model_dump()) == compute
    assert run(compute=compute.model_dump()).run_id == run().run_id


@pytest.mark.parametrize(
    "given",
    [
        {"nodes": 2, "processes_per_node": 4, "processes": 4},
        {"nodes": 3, "processes": 8},
        {"nodes": 2},
    ],
)
def test_nodes_that_contradict_the_processes_are_refused(given):
    with pytest.raises(UserError, match=r"is not nodes × processes_per_node"):
        ComputeSpec(strategy="ddp", **given)


def test_a_path_that_is_not_utf_8_is_refused_by_field():
    """Its bytes are surrogates, which the stored specification, JSON in UTF-8, cannot hold."""
    for section, field in (("backbone", "name"), ("backbone", "weights"), ("task", "data")):
        data = {"backbone": {"name": "b"}, "task": {"name": "sst2"}, "adapter": {"method": "lora"}}
        data[section] = {**data[section], field: b"d\xe9ta".decode("utf-8", "surrogateescape")}
        with pytest.raises(UserError, match=rf"{section}\.{field}: not a name in UTF-8.*rename it"):
            validate(RunSpec, data, "run.yaml")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: AdapterSpec(method="lroa"),
            r"^AdapterSpec: method: Unknown method 'lroa'. Did you mean 'lora'\? Known: ",
        ),
        (
            lambda: AdapterSpec(method="lora", rank=4),
            r"^AdapterSpec: rank: unknown key. Did you mean 'ranks'\? Known: ",
        ),
        (lambda: AdapterSpec(method="lora", ranks=0), "^AdapterSpec: ranks: 0: must be greater than or equal to 1$"),
        (lambda: AdapterSpec(method="lora", projections=["q"]), "^AdapterSpec: projections.0: 'q' is not allowed"),
        (
            lambda: AdapterSpec(method="lora", projections=[]),
            r"^AdapterSpec: projections: \[\]: must be a list of at least",
        ),
        (
            lambda: AdapterSpec(method="lora", grouping="att"),
            "^AdapterSpec: grouping: 'att': lora adapts every projection",
        ),
        (lambda: TaskSpec(name="digits", dat="x"), r"^TaskSpec: dat: unknown key. Did you mean 'data'\?"),
        (lambda: BackboneSpec(name="x", quantization="int4"), r"^BackboneSpec: quantization: 'int4' is not allowed"),
        (lambda: OptimizerSpec(lr=1e-3), r"^OptimizerSpec: lr: unknown key. Did you mean 'learning_rate'\?"),
        (lambda: RunSpec(**{**BASE, "adapter": {"method": "lroa"}}), "^RunSpec: adapter.method: Unknown method 'lroa'"),
        (lambda: RunSpec.model_validate({**BASE, "seed": "x"}), "^RunSpec: seed: 'x': must be an integer$"),
        (lambda: ComputeSpec(compile=True, strategy="zero3"), "^ComputeSpec: compile: true is not supported"),
        (lambda: AdapterSpec.model_validate_json('{"method": "lora", "rank": 2}'), "^AdapterSpec: rank: unknown key"),
        (lambda: AdapterSpec.model_validate_json("{"), "^AdapterSpec: not valid JSON: "),
        (lambda: AdapterSpec.model_validate_strings({"method": "lroa"}), "^AdapterSpec: method: Unknown method"),
        (lambda: LORA.model_copy(update={"ranks": "x"}), "^AdapterSpec: ranks: 'x': must be an integer or a mapping$"),
        (lambda: LORA.model_copy(update={"rank": 2}), "^AdapterSpec: rank: unknown key"),
        (lambda: LORA.model_copy(update={"grouping": "att"}), "^AdapterSpec: grouping: 'att': lora adapts every"),
        (lambda: delattr(LORA, "ranks"), "^AdapterSpec: ranks: a specification is immutable"),
    ],
)
def test_a_mistake_in_python_reads_as_that_of_a_file(make, says):
    with pytest.raises(UserError, match=says) as caught:
        make()
    assert isinstance(caught.value, ValueError) and "pydantic" not in str(caught.value)
    assert "\n" not in str(caught.value), "one mistake, one line"


def test_a_specification_takes_its_fields_by_name_and_keeps_them():
    with pytest.raises(TypeError, match=r"AdapterSpec takes only named fields, as in AdapterSpec\(method=…\)"):
        AdapterSpec("lora")
    with pytest.raises(UserError, match=r"AdapterSpec: ranks: a specification is immutable.*ranks=8$"):
        AdapterSpec(method="lora").ranks = 8


@pytest.mark.parametrize("method", [name for name in METHODS if name != "tenslora"])
def test_a_copy_with_other_fields_is_the_specification_that_has_them(method):
    run = RunSpec(**{**BASE, "adapter": {"method": method}})
    assert run.model_copy(update={"seed": 3}) == RunSpec(**{**BASE, "adapter": {"method": method}, "seed": 3})
    again = run.adapter.model_copy(update={"method": method})
    assert again == run.adapter and again.model_fields_set == run.adapter.model_fields_set


def test_dir_shows_the_api_without_importing_torch():
    code = "import sys, tensloradist; print(*dir(tensloradist)); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(tensloradist.__all__) <= set(shown)
    assert {"attach", "load", "from_peft", "AdapterSpec", "RunSpec"} <= set(shown)
    assert all(hasattr(tensloradist, name) for name in shown)
