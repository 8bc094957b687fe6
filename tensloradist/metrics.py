"""The registry of metrics: name, direction, range, pooling rule and computation of each.

Training, analysis and comparison read this registry, and plugins add their metrics to it. Values are in the metric's
own unit: accuracy is a fraction, not a percentage. Imports no torch; scikit-learn and scipy do the computing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Outputs = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
MetricFunction = Callable[[Outputs, Labels], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: the name in results, tables and figures.
        compute: outputs (n, k) and labels (n,) -> the value; NaN if it is undefined.
        higher_is_better: the direction.
        range: the least and greatest value; infinite without a bound.
        pool: unnormalised scores are averaged over tasks only if their metrics share one pool. The default is the
            metric's name, so that different metrics are not averaged.
        correct: outputs and labels -> which examples are right, (n,) booleans, for McNemar's test; None for a metric
            that does not count right answers.
    """

    name: str
    compute: Callable[[Outputs, Labels], float]
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    pool: str | None = None
    correct: Callable[[Outputs, Labels], npt.NDArray[np.bool_]] | None = None


METRICS: dict[str, Metric] = {}


def lower_is_better(name: str) -> bool:
    """Whether the lowest value is the best. For metrics that are not registered, the highest is."""
    return name in METRICS and not METRICS[name].higher_is_better


def span(name: str) -> float:
    """The largest possible difference of two values; 1 for metrics that are not registered."""
    low, high = METRICS[name].range if name in METRICS else (0.0, 1.0)
    return high - low


def may_pool(names: Iterable[str]) -> bool:
    """Whether unnormalised scores of these metrics may be averaged."""
    return len({(METRICS[name].pool if name in METRICS else None) or name for name in names}) == 1


def scorer(*names: str) -> MetricFunction:
    """A function that computes these registered metrics, in this order."""
    return lambda outputs, labels: {name: METRICS[name].compute(outputs, labels) for name in names}


def _right_class(logits: Outputs, labels: Labels) -> npt.NDArray[np.bool_]:
    return np.asarray(logits.argmax(-1) == labels)


def _accuracy(logits: Outputs, labels: Labels) -> float:
    return float(_right_class(logits, labels).mean())


def _f1(logits: Outputs, labels: Labels) -> float:
    """F1 of class 1, as GLUE reports for MRPC; 0 if no example is predicted positive."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, logits.argmax(-1), zero_division=0))


def _matthews(logits: Outputs, labels: Labels) -> float:
    """Matthews correlation, as GLUE reports for CoLA; 0 if only one class is predicted."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, logits.argmax(-1)))


def _spearman(logits: Outputs, labels: Labels) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, logits, labels)


def _pearson(logits: Outputs, labels: Labels) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, logits, labels)


def _correlation(function: Callable[..., Any], logits: Outputs, labels: Labels) -> float:
    """The correlation that GLUE reports for STS-B; NaN (without scipy's warning) if all predictions are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(function(logits.squeeze(-1), labels).statistic)


def _matched(outputs: Outputs, labels: Labels) -> npt.NDArray[np.bool_]:
    return np.asarray(outputs[:, 2], dtype=bool)


def _exact_match(outputs: Outputs, labels: Labels) -> float:
    """The share of answers that match.

    Args:
        outputs: (n, 3) as `decoders.answer_scores` returns them: nats, tokens, and whether the answer matches.
        labels: (n,) the number of tokens of each answer.
    """
    return float(outputs[:, 2].mean())


def _perplexity(outputs: Outputs, labels: Labels) -> float:
    """exp of the mean negative log-likelihood over the tokens of all answers; outputs and labels as `_exact_match`."""
    nats = outputs[:, 0].astype(np.float64).sum() / labels.sum()
    with np.errstate(over="ignore"):  # an infinite perplexity is reported as undefined
        return float(np.exp(nats))


METRICS.update(
    {
        metric.name: metric
        for metric in (
            Metric(name="accuracy", compute=_accuracy, correct=_right_class),
            Metric(name="f1", compute=_f1, correct=_right_class),
            Metric(name="matthews", compute=_matthews, range=(-1.0, 1.0), correct=_right_class),
            Metric(name="spearman", compute=_spearman, range=(-1.0, 1.0)),
            Metric(name="pearson", compute=_pearson, range=(-1.0, 1.0)),
            Metric(name="exact_match", compute=_exact_match, correct=_matched),
            Metric(name="perplexity", compute=_perplexity, higher_is_better=False, range=(1.0, math.inf)),
        )
    }
)
