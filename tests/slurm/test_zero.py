"""DeepSpeed over two nodes: the same curve as one process here, also after a rank was killed."""

import json
import os
import random
import signal
from importlib.util import find_spec

import pytest
from slurm_sweeps import Sweep, reference, task_processes

from tensloradist.results.layout import RunFolder
from tensloradist.results.metrics import read_metrics
from tensloradist.results.publish import read_result

# Found and not imported, which takes seconds: its processes import it.
without = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'")
pytestmark = [pytest.mark.slurm, without]


def sweep_of(folder, compute):
    sweep = Sweep(folder, compute=compute, epochs=8)
    sweep.file.write_text(sweep.file.read_text().replace("dropout: 0.1", "dropout: 0"))
    return sweep


def losses(run, attempt):
    records, _ = read_metrics(run.attempt(attempt) / "metrics.jsonl")
    return {record["epoch"]: record["train_loss"] for record in records if "train_loss" in record}


@pytest.mark.parametrize(
    "strategy", [pytest.param(strategy, marks=pytest.mark.evidence) for strategy in ("zero2", "zero3")]
)
def test_a_rank_is_killed_and_the_curve_is_that_of_one_process(cluster, tmp_path, strategy):
    alone = sweep_of(tmp_path / "alone", "")
    whole = RunFolder(reference(alone, tmp_path / "whole"), alone.run_ids[0])
    sweep = sweep_of(tmp_path, f", strategy: {strategy}, nodes: 2, processes_per_node: 1")
    assert sweep.run_ids == alone.run_ids, "how a run is executed is no part of its identity"
    assert "2 nodes × 1 process" in sweep.launch()
    sweep.wait_step(20)
    os.kill(random.choice(task_processes(sweep)), signal.SIGKILL)
    sweep.wait_finished(240)
    assert sweep.resumed_from()[-1] >= 20
    attempts = sweep.records("attempt.json")
    assert all(len(record["slurm"]["node_list"]) > 2 for record in attempts), "two nodes, as in n[1-2]"
    ours, theirs = sweep.results()[0], read_result(whole.result)
    assert ours.metrics.score == pytest.approx(theirs.metrics.score, abs=1e-5)
    curve = losses(whole, theirs.attempt)
    found = {epoch: loss for record in attempts for epoch, loss in losses(sweep.run(), record["attempt"]).items()}
    assert found == pytest.approx(curve, abs=1e-5), json.dumps([found, curve])
