"""Reading a run: YAML, overrides, paths, and messages that name the field, the value and what is allowed."""

import pytest
from pydantic import BaseModel, ConfigDict

from tensloradist.config import apply_overrides, expand_path, expand_paths, load_run_spec
from tensloradist.errors import UserError
from tensloradist.validation import validate

RUN = """
backbone: {name: org/model}
task: {name: digits}
adapter:
  grouping: qkv_depth
optimizer: {learning_rate: 1e-3, epochs: 2}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def test_a_run_is_read_from_yaml_with_overrides(file):
    spec = load_run_spec(
        file,
        ["adapter.grouping=att", "optimizer.learning_rate=5e-4", "adapter.ranks={input: 3}", "seed=7",
         "adapter.projections=[query, value]", "optimizer.gradient_clipping=1"],
    )  # fmt: skip
    assert (spec.adapter.grouping, spec.adapter.ranks, spec.adapter.projections) == (
        "att",
        {"input": 3},
        ("query", "value"),
    )
    assert (spec.optimizer.learning_rate, spec.optimizer.epochs, spec.seed) == (5e-4, 2, 7)
    assert load_run_spec(file).optimizer.learning_rate == 1e-3


def test_an_override_is_read_as_a_file_is(file):
    spec = load_run_spec(file, ["seed=064", "optimizer.epochs=010", "task.train_examples=1_000"])
    assert (spec.seed, spec.optimizer.epochs, spec.task.train_examples) == (64, 10, 1000)
    assert apply_overrides({}, ["a=no", "b=12:00", "c=2026-01-01"]) == {"a": "no", "b": "12:00", "c": "2026-01-01"}


def test_an_override_makes_the_sections_that_it_needs_and_leaves_the_original():
    data = {"a": {"b": 1}}
    assert apply_overrides(data, ["a.c.d=2", "e=x=y"]) == {"a": {"b": 1, "c": {"d": 2}}, "e": "x=y"}
    assert data == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "field=value"),
        ("=3", "field=value"),
        ("a..b=3", "field=value"),
        ("adapter.grouping.x=3", "adapter.grouping is 'qkv_depth'"),
        ("seed=[1", "override 'seed', line 1"),
    ],
)
def test_a_broken_override_is_shown(file, override, message):
    with pytest.raises(UserError, match=message):
        load_run_spec(file, [override])


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("adapter.grouping=qkv_dept", ["adapter.grouping: 'qkv_dept'", "Did you mean 'qkv_depth'?", "att_qkv_depth"]),
        ("adapter.groupin=att", ["adapter.groupin: unknown key", "Did you mean 'grouping'?"]),
        ("optimiser.epochs=3", ["optimiser: unknown key", "Did you mean 'optimizer'?"]),
        ("adapter.ranks=0", ["adapter.ranks: 0:", "greater than or equal to 1"]),
        ("adapter.ranks={input: 0}", ["adapter.ranks.input: 0:", "greater than or equal to 1"]),
        ("adapter.ranks=four", ["adapter.ranks: 'four': must be an integer or a mapping"]),
        ("adapter.projections=[query, kee]", ["adapter.projections.1: 'kee'", "Did you mean 'key'?"]),
        ("optimizer.lr_multipliers={core: -8}", ["optimizer.lr_multipliers.core: -8: must be greater than 0"]),
        ("optimizer.learning_rate=.nan", ["optimizer.learning_rate: nan: must be a finite number"]),
        ("optimizer.epochs=2.5", ["optimizer.epochs: 2.5: must be an integer"]),
        ("compute.processes=2", ["compute.processes: strategy single has 1 process, not 2"]),
        ("backbone=deit", ["backbone: 'deit': must be a mapping of fields"]),
        ("adapter.method=lora", ["adapter.grouping: 'qkv_depth': lora adapts every projection"]),
    ],
)
def test_a_mistake_names_field_value_and_what_is_allowed_in_one_line(file, override, messages):
    with pytest.raises(UserError) as caught:
        load_run_spec(file, [override])
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert all(message in text for message in messages), text
    assert "\n" not in text and "pydantic" not in text


def test_all_mistakes_are_listed_at_once(file):
    with pytest.raises(UserError) as caught:
        load_run_spec(file, ["seed=x", "optimizer.epochs=0", "adapter.grouping=att_"])
    assert "3 mistakes" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 4


def test_missing_fields_say_what_they_are():
    with pytest.raises(UserError, match=r"backbone.name: missing; it is required \(Hub name or local folder"):
        load_run_spec({"backbone": {}, "task": {"name": "digits"}, "adapter": {"method": "lora"}})


def test_a_sweep_is_not_a_run(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("methods: [lora]\nconditions: []\n")
    with pytest.raises(UserError, match="tensloradist launch"):
        load_run_spec(path)


def test_variables_and_relative_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_DATA", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    assert expand_path("$SOME_DATA/x", tmp_path, "f") == str(tmp_path / "data/x")
    assert expand_path("${SOME_DATA}x", tmp_path, "f") == str(tmp_path / "datax")
    assert expand_path("here", tmp_path, "f") == str(tmp_path / "here")
    assert expand_path("./absent", tmp_path, "f") == str(tmp_path / "absent")
    assert expand_path("../absent", tmp_path / "here", "f") == str(tmp_path / "absent")
    assert expand_path("org/model", tmp_path, "f") == "org/model"
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(UserError, match=r"task\.data: '\$SOME_DATA/x' uses \$SOME_DATA, which is not set"):
        expand_path("$SOME_DATA/x", tmp_path, "task.data")


def test_paths_mean_files_beside_the_spec_and_overrides_the_working_directory(tmp_path, monkeypatch):
    for place in ("specs", "work"):
        (tmp_path / place / "data").mkdir(parents=True)
    path = tmp_path / "specs" / "run.yaml"
    path.write_text(RUN.replace("{name: digits}", "{name: images, data: data}"))
    monkeypatch.chdir(tmp_path / "work")
    assert load_run_spec(path).task.data == str(tmp_path / "specs/data")
    assert load_run_spec(path, ["task.data=data"]).task.data == str(tmp_path / "work/data")
    assert load_run_spec(path, ["task={name: images, data: ./data}"]).task.data == str(tmp_path / "work/data")


def test_paths_in_lists_of_values_and_of_parts(tmp_path):
    data = {"task": [{"name": "a", "data": ["./x", "org/y"]}, {"name": "digits"}], "backbone": {"name": "./m"}}
    expanded = expand_paths(data, tmp_path)
    assert expanded["task"] == [{"name": "a", "data": [str(tmp_path / "x"), "org/y"]}, {"name": "digits"}]
    assert expanded["backbone"]["name"] == str(tmp_path / "m")


def test_a_folder_does_not_hijack_the_name_of_a_model(tmp_path):
    for name in ("digits_vit", "vit_tiny", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    names = [
        expand_paths({"backbone": backbone}, tmp_path)["backbone"]["name"]
        for backbone in (
            {"source": "digits_vit", "name": "digits_vit"},
            {"source": "timm", "name": "vit_tiny"},
            {"name": "model"},
        )
    ]
    assert names == ["digits_vit", "vit_tiny", str(tmp_path / "model")]


def test_any_model_is_validated_the_same_way():
    class Part(BaseModel):
        model_config = ConfigDict(extra="forbid")
        rank: int

    class Whole(BaseModel):
        parts: list[Part]
        named: dict[str, Part] = {}

    with pytest.raises(UserError, match=r"^a file: parts\.1\.rang: unknown key\. Did you mean 'rank'\?"):
        validate(Whole, {"parts": [{"rank": 1}, {"rank": 1, "rang": 2}]}, "a file")
    with pytest.raises(UserError, match=r"named\.x\.rank: 'y': must be an integer"):
        validate(Whole, {"parts": [], "named": {"x": {"rank": "y"}}}, "a file")
