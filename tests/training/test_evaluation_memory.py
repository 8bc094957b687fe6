"""Device memory that runs out in evaluation: its batch is halved, training's is not, and scores stay what they were."""

from dataclasses import replace

import pytest
import torch
from synthetic import planned_run

from launch.records.policy import decide
from launch.worker.children import Crash
from launch.worker.diagnosis import diagnose_crash
from launch.worker.failures import FailureBook
from tensloradist.backbones import FAMILIES
from tensloradist.errors import UserError
from tensloradist.evaluation import evaluate_run
from tensloradist.identity import resolve
from tensloradist.results.control import EvaluationOutOfMemory
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_failure_of
from tensloradist.results.ranks import write_rank_failure
from tensloradist.spec import RunSpec
from tensloradist.training import train
from tensloradist.training.prediction import EvaluationPasses


def spec(**compute):
    return resolve(
        RunSpec.model_validate(
            {
                "backbone": {"source": "digits_vit", "name": "digits_vit"},
                "task": {"name": "digits", "train_examples": 64},
                "adapter": {"grouping": "qkv_depth", "ranks": 2},
                "optimizer": {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2},
                "compute": {"device": "cpu", "threads": 1, **compute},
            }
        )
    )


@pytest.fixture
def small_device(monkeypatch):
    """A device whose memory takes seven examples in evaluation, and any number in training: within the first block."""
    family = FAMILIES["vit"]
    passes = []

    def run_out(module, arguments, output):
        if not module.training:
            passes.append(len(output))
            if len(output) > 7:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def logits(model, inputs):
        norm = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)][1]
        handle = norm.register_forward_hook(run_out)
        try:
            return family.logits(model, inputs)
        finally:
            handle.remove()

    return lambda: monkeypatch.setitem(FAMILIES, "vit", replace(family, logits=logits)) or passes


def test_a_run_and_its_evaluation_go_on_with_fewer_examples_and_say_so(tmp_path, small_device):
    run = spec()
    expected = execute(run, tmp_path / "large", train).result
    assert expected.provenance["evaluation_batch"] == 64
    passes = small_device()
    outcome = execute(run, tmp_path / "small", train)
    assert outcome.failure is None, outcome.failure
    assert passes[:5] == [64, 32, 16, 8, 4] and max(passes[5:]) == 4, "halved once, for all that follows"
    assert outcome.result.provenance["evaluation_batch"] == 4
    assert outcome.result.metrics == expected.metrics
    again = evaluate_run(RunFolder(tmp_path / "small", run.run_id).path)
    assert again["evaluation_batch"] == 4 and again["metrics"]["accuracy"] == expected.metrics.score


def test_passes_have_all_examples_in_order_whatever_fits():
    examples = torch.arange(45)

    def forward(inputs):
        if len(inputs["x"]) > 7:
            raise RuntimeError("CUDA error: out of memory")
        return inputs["x"]

    passes = EvaluationPasses(20)
    assert torch.equal(torch.cat(list(passes.logits(forward, {"x": examples}))), examples) and passes.size == 5


def test_another_error_is_no_reason_for_another_try():
    def forward(inputs):
        raise UserError("something else")

    with pytest.raises(UserError, match="something else"):
        list(EvaluationPasses(4).logits(forward, {"x": torch.zeros(4)}))


def test_one_example_that_does_not_fit_is_the_end():
    def forward(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    passes = EvaluationPasses(4)
    with pytest.raises(EvaluationOutOfMemory, match=r"1 examples a pass of evaluation \(compute\.evaluation_batch\)"):
        list(passes.logits(forward, {"x": torch.zeros(4)}))
    together = EvaluationPasses.of(spec(strategy="ddp", processes=2).compute)
    assert not together._alone, "its passes may meet others' in collectives"


def test_of_several_processes_the_run_is_tried_again_with_half_of_what_did_not_fit(tmp_path):
    run = spec(strategy="ddp", processes=2, micro_batch=32, timeout_seconds=1)

    def fails(spec, attempt, progress, control):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError as error:
            write_rank_failure(attempt, 1, "out_of_device_memory", EvaluationOutOfMemory(64, error))
        raise RuntimeError("Connection closed by peer [gloo]")

    failure = execute(run, tmp_path, fails).failure
    assert (failure.cause, failure.evaluation_batch) == ("out_of_device_memory", 64)
    folder = RunFolder(tmp_path, run.run_id)
    assert read_failure_of(folder, 1) == failure
    planned = planned_run(run.run_id, run)
    assert diagnose_crash(planned, folder, 1, Crash(1, "log", rank=1), False).evaluation_batch == 64, (
        "where a worker sees its end"
    )
    book = FailureBook(tmp_path, [planned], {run.run_id: 0})
    assert book.decide(planned, folder).action == "retry_smaller"
    compute = book.adjusted(planned, folder).compute
    assert (compute.evaluation_batch, compute.micro_batch) == (32, 32), "training fits, and stays as it is"
    assert EvaluationPasses.of(compute).size == 32
    last = failure.model_copy(update={"evaluation_batch": 1})
    assert decide([last], run).action == "stop" and "evaluation's batch is 1 already" in decide([last], run).reason
