"""Real training runs on the embedded digits: reproducible to the bit, warm or cold, paired, resumable by anybody."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tensloradist import backbones, tasks
from tensloradist.adapter import load
from tensloradist.errors import UserError
from tensloradist.evaluation import evaluate_run
from tensloradist.identity import resolve
from tensloradist.plugins import load_plugins
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result
from tensloradist.spec import RunSpec
from tensloradist.training import train, warm


def spec(**changes):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits", "train_examples": 160},
        "adapter": {"grouping": "qkv_depth", "ranks": 4},
        "optimizer": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2},
        "compute": {"device": "cpu", "threads": 1},
    }
    for name, value in changes.items():
        data[name] = {**data[name], **value} if isinstance(value, dict) else value
    return resolve(RunSpec.model_validate(data))


def attempt(root, number=1):
    folder = root / f"{number:04d}"
    folder.mkdir(parents=True)
    return folder


def without_times(result):
    return result.model_dump(exclude={"times", "peak_memory", "provenance", "attempt"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run of three epochs, in a results folder."""
    root = tmp_path_factory.mktemp("results")
    run = spec(task={"train_examples": None}, optimizer={"epochs": 3})
    return root, run, execute(run, root, train).result


def test_it_learns_and_reports(finished):
    root, run, result = finished
    assert result.metrics.score > 0.6 and result.metrics.validation_score > 0.6
    assert result.adapter_parameters == 668
    assert result.trainable_parameters == 668 + 48 * 5 + 5
    assert result.times.steps == 3 * 17 and result.times.step_seconds > 0
    assert 0 < result.times.data_wait_share < 1
    assert result.peak_memory.host_bytes > 50 * 2**20
    assert result.provenance["versions"]["torch"] == torch.__version__
    folder = RunFolder(root, run.run_id)
    lines = [json.loads(line) for line in (folder.attempt(1) / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "validation" in line] == [1, 2, 3]
    assert read_result(folder.result) == result


def test_a_reviewer_can_recompute_the_metrics(finished):
    root, run, result = finished
    with safe_open(RunFolder(root, run.run_id).attempt(1) / "predictions.safetensors", "np") as file:
        for split, metrics in (("validation", result.metrics.validation), ("test", result.metrics.test)):
            logits, labels = file.get_tensor(f"{split}.logits"), file.get_tensor(f"{split}.labels")
            ids = json.loads(file.metadata()["ids"])[split]
            assert len(ids) == len(labels) == len(set(ids))
            assert (logits.argmax(1) == labels).mean() == pytest.approx(metrics["accuracy"], abs=0)


def test_the_saved_adapter_gives_the_published_scores_again(finished):
    root, run, result = finished
    again = evaluate_run(RunFolder(root, run.run_id).path)
    assert again["metrics"]["accuracy"] == result.metrics.score and again["examples"] == 179


def test_a_run_of_several_sharded_processes_is_evaluated_by_one(finished, tmp_path):
    root, run, result = finished
    copy = shutil.copytree(RunFolder(root, run.run_id).path, tmp_path / run.run_id)
    written = json.loads((copy / "spec.json").read_text())
    compute = {"processes": 4, "nodes": 2, "strategy": "zero2", "offload": "optimizer", "device": "cpu"}
    (copy / "spec.json").write_text(json.dumps({**written, "compute": compute}))
    assert evaluate_run(copy)["metrics"]["accuracy"] == result.metrics.score


def test_the_backbone_stays_frozen(finished):
    root, run, _ = finished
    model, pristine = (backbones.load(run.backbone, 5) for _ in range(2))
    load(model, RunFolder(root, run.run_id).attempt(1)).detach()
    for (name, ours), theirs in zip(model.named_parameters(), pristine.parameters(), strict=True):
        assert name.startswith("classifier") or torch.equal(ours, theirs)


def test_warm_runs_equal_cold_ones_in_any_order(tmp_path):
    runs = [
        spec(),
        spec(adapter={"grouping": "att", "dropout": 0.1}),
        spec(adapter={"grouping": None, "method": "lora"}, seed=1),
        spec(precision="bf16"),
    ]
    results = {}
    for turn, order in enumerate([(0, 1, 2, 3), (3, 0, 2, 1)]):
        warm.forget()
        for place in order:
            results[turn, place] = without_times(train(runs[place], attempt(tmp_path / f"{turn}-{place}")))
    for place in range(4):
        assert results[0, place] == results[1, place]


def test_a_cold_process_gives_the_same_bits(tmp_path):
    run = spec(adapter={"grouping": "att_qkv"})
    train(spec(), attempt(tmp_path / "before"))
    ours = without_times(train(run, attempt(tmp_path / "warm")))
    code = (
        "import sys, json; from pathlib import Path; from tensloradist.spec import RunSpec; "
        "from tensloradist.training import train; "
        "r = train(RunSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2])); print(r.model_dump_json())"
    )
    command = [sys.executable, "-c", code, run.model_dump_json(), str(attempt(tmp_path / "cold"))]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert {key: theirs[key] for key in ours} == json.loads(json.dumps(ours))
    for name in ("adapter.safetensors", "head.safetensors", "predictions.safetensors"):
        assert (tmp_path / "warm/0001" / name).read_bytes() == (tmp_path / "cold/0001" / name).read_bytes()


def test_methods_are_paired_by_seed(tmp_path):
    prints = {}
    for seed in (0, 1):
        for name, adapter in {"lora": {"grouping": None, "method": "lora"}, "att": {"grouping": "att"}}.items():
            result = train(
                spec(adapter=adapter, seed=seed, optimizer={"epochs": 1}), attempt(tmp_path / f"{seed}{name}")
            )
            prints[seed, name] = result.fingerprints
    assert prints[0, "lora"] == prints[0, "att"] and prints[1, "lora"] == prints[1, "att"]
    assert prints[0, "att"].split == prints[1, "att"].split
    assert prints[0, "att"].data_order != prints[1, "att"].data_order
    assert prints[0, "att"].head != prints[1, "att"].head


def test_accumulation_does_not_change_the_result(tmp_path):
    whole = train(spec(), attempt(tmp_path / "a"))
    parts = train(spec(compute={"micro_batch": 5}), attempt(tmp_path / "b"))
    assert whole.run_id == parts.run_id
    losses = []
    for folder in ("a", "b"):
        lines = (tmp_path / folder / "0001/metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train_loss"] for line in lines if "train_loss" in line])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_divergence_is_a_result(tmp_path):
    run = spec(optimizer={"learning_rate": 1e30, "epochs": 1})
    outcome = execute(run, tmp_path, train)
    assert outcome.status == "diverged"
    assert outcome.result.metrics.score is None and outcome.result.metrics.test == {"accuracy": None}
    assert execute(run, tmp_path, train).status == "present", "a diverged run is never retried"


def test_official_protocol_takes_the_best_epoch_on_test(tmp_path):
    result = train(spec(protocol="official"), attempt(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "0001/metrics.jsonl").read_text().splitlines()]
    seen = [line["validation"]["accuracy"] for line in lines if "validation" in line]
    assert result.metrics.score == max(seen) == result.metrics.test["accuracy"]


def test_sound_protocol_reports_last_and_best_epoch(tmp_path):
    result = train(spec(optimizer={"epochs": 4, "schedule": "constant", "learning_rate": 5e-2}), attempt(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "0001/metrics.jsonl").read_text().splitlines()]
    seen = [line["validation"]["accuracy"] for line in lines if "validation" in line]
    assert result.metrics.validation_score == seen[-1]
    assert result.metrics.best_epoch == 1 + seen.index(max(seen))


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size: 1000 exceeds the 537 training examples"):
        train(spec(task={"train_examples": None}, optimizer={"batch_size": 1000}), attempt(tmp_path))


@pytest.mark.distributed
def test_two_processes_give_the_same_losses(tmp_path):
    """DDP over gloo, started by the documentation's torchrun command: same losses, one result, written by one rank."""
    single = train(spec(optimizer={"epochs": 2}), attempt(tmp_path / "single"))
    file = tmp_path / "run.yaml"
    file.write_text(
        json.dumps(
            {
                "backbone": {"source": "digits_vit", "name": "digits_vit"},
                "task": {"name": "digits", "train_examples": 160},
                "adapter": {"grouping": "qkv_depth", "ranks": 4},
                "optimizer": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2},
                "compute": {"device": "cpu", "threads": 1, "strategy": "ddp", "processes": 2},
            }
        )
    )
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    literal = next(line for line in page.splitlines() if line.startswith("torchrun "))
    command = literal.replace("torchrun", f"{sys.executable} -m torch.distributed.run").replace("run.yaml", str(file))
    command = [*command.split(), "--results", str(tmp_path / "results")]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    run = RunFolder(tmp_path / "results", single.run_id)
    result = read_result(run.result)
    assert result.provenance["processes"] == 2
    assert result.fingerprints == single.fingerprints
    losses = []
    for folder in (tmp_path / "single/0001", run.attempt(1)):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["train_loss"] for line in lines if "train_loss" in line])
    assert len(losses[1]) == 2, "only the first process writes"
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_in_bf16_the_saved_adapter_gives_the_published_scores_again(tmp_path):
    run = spec(precision="bf16")
    result = execute(run, tmp_path, train).result
    again = evaluate_run(RunFolder(tmp_path, run.run_id).path)
    assert again["metrics"]["accuracy"] == result.metrics.score


def test_a_plugins_run_is_evaluated_by_a_process_that_has_not_seen_the_plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tasks")
    load_plugins(["plugin_task"])
    run = spec(task={"name": "plugin_digits", "train_examples": None}, plugins=["plugin_task"])
    result = execute(run, tmp_path, train).result
    del tasks.TASKS["plugin_digits"], sys.modules["plugin_task"]
    assert evaluate_run(RunFolder(tmp_path, run.run_id).path)["metrics"]["hits"] == result.metrics.score


def test_each_example_of_an_official_split_counts_once(tmp_path, monkeypatch):
    from tensloradist.tasks.examples import image_backbone, image_folder

    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    task, backbone = image_folder(tmp_path), image_backbone(tmp_path)
    optimizer = {"epochs": 1, "batch_size": 8}
    run = spec(backbone=backbone.model_dump(), task=task.model_dump(), optimizer=optimizer, protocol="official")
    execute(run, tmp_path / "results", train)
    assert evaluate_run(RunFolder(tmp_path / "results", run.run_id).path, task.data)["examples"] == 30


def test_after_a_run_that_did_not_fit_its_data_the_process_is_as_good_as_new(tmp_path):
    with pytest.raises(UserError, match="batch_size: 1000"):
        train(spec(optimizer={"batch_size": 1000}), attempt(tmp_path / "wrong"))
    assert train(spec(precision="bf16", optimizer={"epochs": 1}), attempt(tmp_path / "right")).state == "finished"


def test_a_runs_threads_are_not_the_next_ones(tmp_path):
    before = torch.get_num_threads()
    train(spec(compute={"threads": before + 1}, optimizer={"epochs": 1}), attempt(tmp_path))
    assert torch.get_num_threads() == before


def test_evaluating_other_data_of_the_task(tmp_path, monkeypatch):
    from tensloradist.spec import TaskSpec
    from tensloradist.tasks.examples import image_backbone, image_folder

    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))
    task, backbone = image_folder(tmp_path / "a"), image_backbone(tmp_path)
    run = resolve(
        RunSpec.model_validate(
            {
                "backbone": backbone.model_dump(),
                "task": task.model_dump(),
                "adapter": {"grouping": "att"},
                "optimizer": {"epochs": 1, "batch_size": 8},
                "compute": {"device": "cpu", "threads": 1},
            }
        )
    )
    execute(run, tmp_path / "results", train)
    folder = RunFolder(tmp_path / "results", run.run_id).path
    other = image_folder(tmp_path / "b", each=6)
    assert evaluate_run(folder, other.data)["examples"] == 18
    min(Path(other.data).iterdir()).rename(Path(other.data) / "zebra")
    with pytest.raises(UserError, match=r"class 0 is .*, but the run was trained with "):
        evaluate_run(folder, other.data)
    fewer = image_folder(tmp_path / "c", classes=2)
    with pytest.raises(UserError, match="has 2 classes, but the run was trained on 3"):
        evaluate_run(folder, fewer.data)
    with pytest.raises(UserError, match=r"no spec\.json"):
        evaluate_run(tmp_path)
    assert tasks.TASKS["images"].num_labels(TaskSpec(name="images", data=fewer.data)) == 2
