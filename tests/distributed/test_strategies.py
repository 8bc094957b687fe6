"""The same run on one process and on two, under every strategy: the same curve, the same scores, a whole backbone."""

import json
import logging

import numpy as np
import pytest
from process_groups import attempt, losses, run_group, spec

from tensloradist.training import train

pytestmark = pytest.mark.distributed
pytest.importorskip("deepspeed", reason="needs the extra 'deepspeed'")

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
# Two epochs of 150 examples in batches of 32: the last batch has 22, 11 a process.
KINDS = {
    "lora": {"adapter": {"method": "lora", "ranks": 2}},
    "one shared tensor": {},
    "groups, clipping, accumulation": {
        "compute": {"micro_batch": 6},  # 16 = 6 + 6 + 4, 11 = 6 + 5: fewer passes in the last batch
        "optimizer": {
            "epochs": 2,
            "batch_size": 32,
            "learning_rate": 1e-2,
            "gradient_clipping": 0.05,
            "weight_decay": 0.1,
            "lr_multipliers": {"core": 2.0, "head": 0.5},
        },
    },
    "bf16": {"precision": "bf16"},
}
TOLERANCE = {"bf16": 2e-3}  # its products are rounded to 8 bits, in another order on two processes


def combinations():
    for kind in KINDS:
        for strategy in STRATEGIES:
            yield kind, strategy, ""
            if kind in ("lora", "one shared tensor"):
                yield kind, strategy, "checkpointing"
    yield "one shared tensor", "zero2", "offload"
    yield "one shared tensor", "zero3", "offload"


def compute_of(strategy, extra, file):
    compute = {"strategy": strategy, "processes": 2}
    if strategy == "zero3":
        compute["deepspeed_config"] = file
    if extra == "checkpointing":
        compute["activation_checkpointing"] = True
    if extra == "offload":
        compute["offload"] = "cpu"
    return compute


def run_of(kind, compute):
    changes = dict(KINDS[kind])
    return spec({**changes.pop("compute", {}), **compute}, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(kind, strategy, extra) -> (folder, result): all in one group of two processes, and once on one process."""
    root = tmp_path_factory.mktemp("strategies")
    file = root / "ds.json"
    # Without the default threshold, which would leave every parameter of a model this small on all processes.
    file.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    found, jobs = {}, []
    for kind in KINDS:
        run = run_of(kind, {})
        folder = attempt(root / f"single {kind}", run)
        found[kind, "single", ""] = folder, json.loads(train(run, folder).model_dump_json())
    for combination in combinations():
        run = run_of(combination[0], compute_of(*combination[1:], str(file)))
        jobs.append({"run": run, "folder": attempt(root / " ".join(combination), run)})
    ended = run_group(root / "group", jobs)
    assert ended.codes == [0, 0], ended.errors[0][-3000:] + ended.errors[1][-3000:]
    for combination, job, said in zip(combinations(), jobs, ended.said[0], strict=True):
        found[combination] = job["folder"], said
    return found


@pytest.mark.parametrize("combination", combinations(), ids=" ".join)
def test_every_strategy_gives_the_single_process_curve(trained, combination):
    kind = combination[0]
    (folder, result), (single_folder, single) = trained[combination], trained[kind, "single", ""]
    tolerance = TOLERANCE.get(kind, 1e-5)
    assert len(losses(folder)) == 2
    np.testing.assert_allclose(losses(folder), losses(single_folder), rtol=0, atol=tolerance)
    if kind != "bf16":
        assert result["metrics"] == single["metrics"], "scores at the last and at the best epoch"
    assert result["run_id"] == single["run_id"] and result["fingerprints"] == single["fingerprints"]
    assert result["trainable_parameters"] == single["trainable_parameters"] > result["adapter_parameters"] > 0
    assert result["provenance"]["strategy"] == combination[1] and result["provenance"]["processes"] == 2
    assert len(result["peak_memory"]["host_bytes_by_process"]) == 2


@pytest.mark.parametrize("combination", combinations(), ids=" ".join)
def test_the_backbone_is_the_same_at_both_ends(trained, combination):
    frozen = trained[combination][1]["frozen_backbone"]
    assert frozen["start"] == frozen["end"] == trained[combination[0], "single", ""][1]["frozen_backbone"]["start"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_saved_is_whole_and_loads_on_one_process(trained, strategy):
    from tensloradist import backbones
    from tensloradist.adapter import load

    folder, result = trained["one shared tensor", strategy, ""]
    model = backbones.load(run_of("one shared tensor", {}).backbone, 5)
    adapter = load(model, folder)
    single = load(
        backbones.load(run_of("one shared tensor", {}).backbone, 5), trained["one shared tensor", "single", ""][0]
    )
    for (name, value), (_, expected) in zip(adapter.state_dict().items(), single.state_dict().items(), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-4, err_msg=name)
    assert adapter.num_parameters == result["adapter_parameters"]
    logging.getLogger(__name__).info("%s: %s", strategy, result["peak_memory"])
