"""The generated DeepSpeed configuration, and a user's file laid over it: it may add, repeat, and never contradict."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tensloradist.errors import UserError
from tensloradist.identity import resolve
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
            "fp16": {"enabled": "auto", "loss_scale": 0},
            "wall_clock_breakdown": True,
        },
    )
    assert config["zero_optimization"]["stage3_prefetch_bucket_size"] == 7
    assert config["wall_clock_breakdown"] is True and config["gradient_accumulation_steps"] == 1
    assert "bf16" not in config and "fp16" not in config


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
        ({"communication_data_type": "bf16"}, "communication_data_type may not be there"),
        (
            {"zero_optimization": {"zero_quantized_gradients": True}},
            "zero_quantized_gradients may not be there: it changes",
        ),
        ({"zero_optimisation": {"stage": 3}}, "Unknown key 'zero_optimisation'. Did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"stage3_max_live_parametres": 1}}, "Did you mean 'stage3_max_live_parameters'?"),
        ("{not json", "is not JSON"),
        ("[]", "holds a list"),
    ],
)
def test_a_file_that_contradicts_is_refused_by_field(tmp_path, content, message):
    with pytest.raises(UserError, match=r"compute\.deepspeed_config") as error:
        with_file(tmp_path, content)
    assert message in str(error.value)


def test_an_empty_section_changes_nothing(tmp_path):
    assert with_file(tmp_path, {"zero_optimization": {}, "fp16": {}}) == with_file(tmp_path, {})


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
    with pytest.raises(UserError, match=field):
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


def digits(tmp_path, **compute):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits", "train_examples": 64},
        "adapter": {"method": "full"},
        "optimizer": {"epochs": 1, "batch_size": 32},
        "compute": {"device": "cpu", "threads": 1, **compute},
    }
    (tmp_path / "run.json").write_text(json.dumps(data))
    return resolve(RunSpec.model_validate(data))


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_offload_without_memory_for_it_is_refused_before_anything_is_sharded(tmp_path, monkeypatch, strategy):
    from accelerate import Accelerator

    from tensloradist import backbones
    from tensloradist.training import zero

    run = digits(tmp_path, strategy=strategy, offload="optimizer")
    model = backbones.load(run.backbone, 5)
    state = 12 * sum(parameter.numel() for parameter in model.parameters())  # all are trained
    if strategy == "zero3":
        state = state // 12 * 16  # the weights, too: the device is the CPU
    sharding = object.__new__(zero.Zero)  # of one process, without DeepSpeed's engine
    sharding.spec, sharding.accelerator, sharding.stage = run, Accelerator(cpu=True), run.compute.zero_stage
    monkeypatch.setattr(zero, "available_memory", lambda: state + 10**6)
    sharding._check_room(model)
    monkeypatch.setattr(zero, "available_memory", lambda: state - 10**6)
    with pytest.raises(
        UserError, match=r"compute.offload: optimizer: what 1 of the 1 processes shard takes .* are free; use"
    ):
        sharding.shard(model)


def test_deepspeed_that_is_not_installed_is_asked_for(tmp_path):
    digits(tmp_path, strategy="zero1")
    code = "import importlib.util as u, sys; find = u.find_spec\n"
    code += "u.find_spec = lambda name, *more: None if name == 'deepspeed' else find(name, *more)\n"
    code += f"sys.argv = ['tensloradist', 'run', {str(tmp_path / 'run.json')!r}]\n"
    code += "from tensloradist.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert "compute.strategy: zero1 needs DeepSpeed" in ended.stderr and "tensloradist[deepspeed]" in ended.stderr


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/slurm/job1/step", {"slurm/job1/memory.max": "900", "slurm/job1/memory.current": "300"}, 600),
        (
            "4:memory:/slurm/job1\n0::/",
            {"memory/slurm/memory.limit_in_bytes": "70", "memory/slurm/memory.usage_in_bytes": "20"},
            50,
        ),
        ("0::/", {"memory.max": "max"}, None),
    ],
)
def test_memory_is_what_the_kernel_and_every_group_above_leave(tmp_path, monkeypatch, groups, files, left):
    """With the files of both kinds of control groups, where Slurm sets a job's limit above its steps."""
    from tensloradist.training import provenance

    places = {"/proc/self/cgroup": tmp_path / "cgroup", "/proc/meminfo": tmp_path / "meminfo"}
    (tmp_path / "cgroup").write_text(groups + "\n")
    (tmp_path / "meminfo").write_text("MemAvailable:  4 kB\n" if left is None else "MemAvailable:  4000 kB\n")
    for name, content in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "sys" / "slurm/job1/step").mkdir(parents=True, exist_ok=True)

    def moved(path):
        text = str(path)
        if text.startswith("/sys/fs/cgroup"):
            return tmp_path / "sys" / text.removeprefix("/sys/fs/cgroup").lstrip("/")
        return places.get(text, Path(text))

    monkeypatch.setattr(provenance, "Path", moved)
    assert provenance.available_memory() == (4096 if left is None else left)
