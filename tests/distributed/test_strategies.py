"""The same run on one process and on two, under every strategy: the same curve, the same scores, a whole backbone."""

import json
import logging
from importlib.util import find_spec

import numpy as np
import pytest
from process_groups import attempt, losses, run_group, spec

from tensloradist.tasks.examples import image_folder, language_backbone, language_folder
from tensloradist.training import train

# Found and not imported, which takes seconds: the group's processes import it.
without = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'")
pytestmark = [pytest.mark.distributed, without]

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
    # A bias of the adapter's that the projections read, weights, and the cores of a train.
    "cara": {"adapter": {"method": "cara", "ranks": 2, "projections": ["query", "key", "value"]}},
    "metatt_4d": {"adapter": {"method": "metatt_4d", "ranks": 2, "projections": ["query", "key", "value"]}},
    "full": {"adapter": {"method": "full"}, "optimizer": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3}},
}
KINDS["bf16 lora"] = {**KINDS["lora"], **KINDS["bf16"]}
TOLERANCE = {"bf16": 2e-3, "bf16 lora": 2e-3}  # its products are rounded to 8 bits, in another order on two processes


BOTH = ("lora", "one shared tensor")
SHORT = [
    *((kind, strategy, "") for kind in BOTH for strategy in STRATEGIES),
    *((kind, strategy, "checkpointing") for kind in BOTH for strategy in ("ddp", "zero3")),
    *((kind, "zero3", "") for kind in KINDS if kind not in (*BOTH, "bf16 lora")),
    *(("bf16", strategy, "") for strategy in ("ddp", "zero2")),
    *((kind, strategy, "") for kind in ("decoder", "timm") for strategy in ("ddp", "zero3")),
    ("cara", "zero3", "checkpointing"),
    ("groups, clipping, accumulation", "zero2", ""),
    ("one shared tensor", "zero3", "offload"),
]
LONG = [
    *((kind, strategy, "") for kind in KINDS for strategy in STRATEGIES if (kind, strategy, "") not in SHORT),
    *((kind, strategy, "checkpointing") for kind in BOTH for strategy in ("zero1", "zero2")),
    ("one shared tensor", "zero2", "offload"),
    ("bf16", "zero3", "checkpointing"),
    *((kind, strategy, "") for kind in ("decoder", "timm") for strategy in ("zero1", "zero2")),
    *(("one shared tensor", strategy, "compiled") for strategy in ("ddp", "zero1", "zero2")),
]
COMBINATIONS = [*SHORT, *(pytest.param(combination, marks=pytest.mark.evidence) for combination in LONG)]


def named(combination):
    return " ".join(filter(None, combination))


def compute_of(strategy, extra, file):
    compute = {"strategy": strategy, "processes": 2}
    if strategy == "zero3":
        compute["deepspeed_config"] = file
    if extra == "checkpointing":
        compute["activation_checkpointing"] = True
    if extra == "compiled":
        compute["compile"] = True
    if extra == "offload":
        compute["offload"] = "cpu"
    return compute


def run_of(kind, compute):
    changes = dict(KINDS[kind])
    return spec({**changes.pop("compute", {}), **compute}, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """(kind, strategy, extra) -> (folder, result): all in one group of two processes, and once on one process."""
    calls = [item.callspec for item in request.session.items if item.path == request.path]
    wanted = {call.params["combination"] for call in calls}
    chosen = [combination for combination in SHORT + LONG if combination in wanted]
    root = tmp_path_factory.mktemp("strategies")
    file = root / "ds.json"
    # Small as the model is: else every parameter would stay on all processes, and no weights would be on their way
    # when a forward pass without a backward one ends.
    sizes = {"param_persistence_threshold": 0, "prefetch_bucket_size": 10_000, "max_live_parameters": 20_000}
    file.write_text(json.dumps({"zero_optimization": {f"stage3_{name}": size for name, size in sizes.items()}}))
    # Answers of unequal lengths, with tied weights and buffers; pictures that are augmented by what each process sees.
    llama = language_backbone(root, tie_word_embeddings=True)
    KINDS["decoder"] = {
        "backbone": llama.model_dump(),
        "task": language_folder(root).model_dump(),
        "optimizer": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
        "compute": {"micro_batch": 3},
    }
    KINDS["timm"] = {
        "backbone": {"source": "timm", "name": "test_vit", "random_init": True},
        "task": {**image_folder(root, classes=2, each=12).model_dump(), "augmentation": "flip_jitter"},
        "optimizer": {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3},
    }
    found, jobs = {}, []
    for kind in dict.fromkeys(combination[0] for combination in chosen):
        run = run_of(kind, {})
        folder = attempt(root / f"single {kind}", run)
        found[kind, "single", ""] = folder, json.loads(train(run, folder).model_dump_json())
    for combination in chosen:
        run = run_of(combination[0], compute_of(*combination[1:], str(file)))
        jobs.append({"run": run, "folder": attempt(root / " ".join(combination), run)})
    ended = run_group(root / "group", jobs)
    assert ended.codes == [0, 0], ended.errors[0][-3000:] + ended.errors[1][-3000:]
    for combination, job, result in zip(chosen, jobs, ended.results[0], strict=True):
        found[combination] = job["folder"], result
    return found


@pytest.mark.parametrize("combination", COMBINATIONS, ids=named)
def test_every_strategy_gives_the_single_process_curve(trained, combination):
    kind = combination[0]
    (folder, result), (single_folder, single) = trained[combination], trained[kind, "single", ""]
    tolerance = TOLERANCE.get(kind, 1e-5)
    assert len(losses(folder)) == 2
    np.testing.assert_allclose(losses(folder), losses(single_folder), rtol=0, atol=tolerance)
    if kind == "decoder":  # its perplexity is a sum over all answers
        for name, score in single["metrics"]["test"].items():
            assert result["metrics"]["test"][name] == pytest.approx(score, rel=1e-4)
    elif kind not in TOLERANCE:
        assert result["metrics"] == single["metrics"], "scores at the last and at the best epoch"
    assert result["run_id"] == single["run_id"] and result["fingerprints"] == single["fingerprints"]
    assert result["trainable_parameters"] == single["trainable_parameters"] >= result["adapter_parameters"] > 0
    assert result["provenance"]["strategy"] == combination[1] and result["provenance"]["processes"] == 2
    assert len(result["peak_memory"]["host_bytes_by_process"]) == 2


@pytest.mark.parametrize("combination", COMBINATIONS, ids=named)
def test_the_backbone_is_the_same_at_both_ends_where_it_is_frozen(trained, combination):
    frozen = trained[combination][1]["frozen_backbone"]
    if combination[0] == "full":
        assert frozen is None
        return
    assert frozen["start"] == frozen["end"] == trained[combination[0], "single", ""][1]["frozen_backbone"]["start"]


@pytest.mark.parametrize("combination", [(BOTH[1], s, "") for s in STRATEGIES] + [("full", "zero3", "")], ids=named)
def test_what_is_saved_is_whole_and_loads_on_one_process(trained, combination):
    from tensloradist import backbones
    from tensloradist.adapter import load

    kind, (folder, result) = combination[0], trained[combination]
    models = [backbones.load(run_of(kind, {}).backbone, 5) for _ in range(2)]
    adapter, _ = load(models[0], folder), load(models[1], trained[kind, "single", ""][0])
    ours, theirs = (model.state_dict() for model in models)
    for name, value in ours.items():
        if kind == "full" and name.endswith("k_proj.bias"):
            continue  # softmax takes no notice of it: its gradient is rounding alone, which AdamW makes as large as any
        np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)
    assert adapter.num_parameters == result["adapter_parameters"]
    logging.getLogger(__name__).info("%s: %s", combination, result["peak_memory"])
