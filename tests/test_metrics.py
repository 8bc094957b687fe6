"""The registry of metrics: each keeps to its range and direction, and says itself what may be averaged and compared."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tensloradist.metrics import METRICS, Metric, lower_is_better, may_pool, scorer, span

METRICS_HERE = [name for name in METRICS if name != "hits"]  # which a plugin of other tests registers
CLASSES = ("accuracy", "f1", "matthews")
REGRESSION = ("spearman", "pearson")


def examples(name, quality, seed=0):
    """Outputs and labels of 60 examples; with quality 1 every output is right, with 0 every one is wrong."""
    random = np.random.default_rng(seed)
    right = random.random(60) < quality
    if name in CLASSES:
        labels = random.integers(0, 2, 60)
        return np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)], labels
    if name in REGRESSION:
        labels = random.normal(size=60).astype(np.float32)
        return np.where(right, labels, -labels)[:, None], labels
    tokens = random.integers(1, 5, 60)
    return np.stack([np.where(right, 0.0, 3.0 * tokens), tokens, right], axis=1).astype(np.float32), tokens


@pytest.mark.parametrize("name", METRICS_HERE)
def test_values_keep_to_the_range_and_go_the_stated_way(name):
    metric = METRICS[name]
    worst, middle, best = (metric.compute(*examples(name, quality)) for quality in (0.0, 0.7, 1.0))
    assert all(metric.range[0] - 1e-9 <= value <= metric.range[1] + 1e-9 for value in (worst, middle, best))
    assert (worst < middle < best) if metric.higher_is_better else (worst > middle > best)
    assert best == pytest.approx(metric.range[1] if metric.higher_is_better else metric.range[0])
    assert lower_is_better(name) != metric.higher_is_better


def test_classification_is_scikit_learns():
    logits, labels = examples("f1", 0.7)
    found = scorer("matthews", "accuracy", "f1")(logits, labels)
    wanted = [function(labels, logits.argmax(-1)) for function in (matthews_corrcoef, accuracy_score, f1_score)]
    assert list(found) == ["matthews", "accuracy", "f1"] and list(found.values()) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS_HERE if METRICS[name].correct])
def test_the_right_examples_are_as_many_as_the_accuracy_says(name):
    outputs, labels = examples(name, 0.7)
    counted = METRICS["exact_match" if name == "exact_match" else "accuracy"].compute(outputs, labels)
    assert METRICS[name].correct(outputs, labels).mean() == pytest.approx(counted)


def test_constant_predictions_have_no_correlation():
    assert all(np.isnan(METRICS[name].compute(np.ones((5, 1)), np.arange(5.0))) for name in REGRESSION)


def test_only_metrics_of_one_pool_are_averaged(monkeypatch):
    assert may_pool(["accuracy", "accuracy"]) and may_pool(["hits"]) and not may_pool(["accuracy", "f1"])
    for name in ("top1", "top5"):
        monkeypatch.setitem(METRICS, name, Metric(name=name, compute=lambda *_: 0.0, pool="share of examples"))
    assert may_pool(["top1", "top5"]) and not may_pool(["top1", "accuracy"])


def test_a_metric_that_is_not_registered_is_a_fraction_that_is_better_when_higher():
    assert (lower_is_better("unheard of"), span("unheard of"), span("matthews")) == (False, 1.0, 2.0)


def test_the_registry_needs_no_torch():
    code = "import sys, tensloradist.metrics; assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
