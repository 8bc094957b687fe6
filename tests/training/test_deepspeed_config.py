"""The generated DeepSpeed configuration, and a user's file laid over it: it may add, repeat, and never contradict."""

import json

import pytest
from pydantic import ValidationError

from tensloradist.errors import UserError
from tensloradist.spec import RunSpec
from tensloradist.training.deepspeed_config import deepspeed_config


def spec(compute, **optimizer):
    return RunSpec.model_validate(
        {
            "backbone": {"name": "somewhere/deit"},
            "task": {"name": "images"},
            "adapter": {"grouping": "att"},
            "optimizer": {"batch_size": 30, **optimizer},
            "compute": compute,
        }
    )


def with_file(tmp_path, content, strategy="zero3", **optimizer):
    path = tmp_path / "ds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return deepspeed_config(spec({"strategy": strategy, "processes": 2, "deepspeed_config": str(path)}, **optimizer))


@pytest.mark.parametrize(("processes", "micro", "made"), [(1, None, (30, 1)), (4, None, (8, 1)), (4, 3, (3, 3))])
def test_passes_make_the_batch_with_the_least_padding(processes, micro, made):
    config = deepspeed_config(spec({"strategy": "zero2", "processes": processes, "micro_batch": micro}))
    found = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
    assert found == made
    assert config["train_batch_size"] == found[0] * found[1] * processes >= 30


def test_no_clipping_is_said_since_deepspeed_clips_where_nothing_is():
    compute = {"strategy": "zero1", "processes": 2}
    assert deepspeed_config(spec(compute))["gradient_clipping"] == 0.0
    assert deepspeed_config(spec(compute, gradient_clipping=0.5))["gradient_clipping"] == 0.5


@pytest.mark.parametrize(("strategy", "parts"), [("zero1", 1), ("zero2", 1), ("zero3", 2)])
def test_offload_to_the_cpu_is_of_what_the_strategy_shards(strategy, parts):
    zero = deepspeed_config(spec({"strategy": strategy, "processes": 2, "offload": "cpu"}))["zero_optimization"]
    assert sum(value == {"device": "cpu"} for value in zero.values()) == parts


def test_a_file_adds_and_repeats(tmp_path):
    config = with_file(
        tmp_path,
        {
            "train_batch_size": 30,
            "gradient_accumulation_steps": "auto",
            "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 7, "offload_param": {"device": "none"}},
            "bf16": {"enabled": False},
            "wall_clock_breakdown": True,
        },
    )
    assert config["zero_optimization"]["stage3_prefetch_bucket_size"] == 7
    assert config["wall_clock_breakdown"] is True and config["gradient_accumulation_steps"] == 1
    assert "bf16" not in config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"zero_optimization": {"stage": 2}},
            "zero_optimization.stage is 2, but by the spec's compute.strategy it is 3",
        ),
        (
            {"gradient_clipping": 1.0},
            "gradient_clipping is 1.0, but by the spec's optimizer.gradient_clipping it is 0.0",
        ),
        ({"train_batch_size": 64}, "train_batch_size is 64"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "compute.offload it is 'none'"),
        ({"optimizer": {"type": "Adam"}}, "optimizer may not be there"),
        ({"bf16": {"enabled": True}}, "bf16 may not be there"),
        ("{not json", "is no JSON"),
        ("[]", "holds a list"),
    ],
)
def test_a_file_that_contradicts_is_refused_by_field(tmp_path, content, message):
    with pytest.raises(UserError, match=r"compute\.deepspeed_config") as error:
        with_file(tmp_path, content)
    assert message in str(error.value)


def test_all_contradictions_are_said_at_once(tmp_path):
    with pytest.raises(UserError, match=r"stage is 1.*scheduler may not be there"):
        with_file(tmp_path, {"zero_optimization": {"stage": 1}, "scheduler": {"type": "WarmupLR"}})


@pytest.mark.parametrize(
    ("compute", "field"),
    [
        ({"strategy": "ddp", "processes": 2, "offload": "cpu"}, "offload"),
        ({"strategy": "single", "deepspeed_config": "ds.json"}, "deepspeed_config"),
        ({"strategy": "zero3", "processes": 31}, "batch_size"),
        ({"strategy": "single", "processes": 2}, "processes"),
    ],
)
def test_strategies_refuse_what_they_cannot_have(compute, field):
    with pytest.raises(ValidationError, match=field):
        spec(compute)


def test_the_strategy_is_no_part_of_the_identity():
    fingerprints = {"fingerprint": "f"}
    ids = {
        spec(compute)
        .model_copy(
            update={part: getattr(spec(compute), part).model_copy(update=fingerprints) for part in ("backbone", "task")}
        )
        .run_id
        for compute in (
            {},
            {"strategy": "ddp", "processes": 3},
            {"strategy": "zero3", "processes": 2, "offload": "cpu"},
        )
    }
    assert len(ids) == 1
