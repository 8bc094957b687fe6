"""The metrics of the text tasks, computed by scikit-learn and scipy. Scores in their own unit, not in percent."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from tensloradist.tasks.base import Labels, accuracy

__all__ = ["accuracy", "accuracy_f1", "answers", "correlations", "matthews"]
Logits = npt.NDArray[np.float32]


def accuracy_f1(logits: Logits, labels: Labels) -> dict[str, float]:
    """Accuracy and the F1 of class 1, as GLUE reports for MRPC; F1 is 0 where nothing is predicted positive."""
    from sklearn.metrics import f1_score

    return {**accuracy(logits, labels), "f1": float(f1_score(labels, logits.argmax(-1), zero_division=0))}


def matthews(logits: Logits, labels: Labels) -> dict[str, float]:
    """Matthews correlation (CoLA); 0 where one class alone is predicted."""
    from sklearn.metrics import matthews_corrcoef

    return {"matthews": float(matthews_corrcoef(labels, logits.argmax(-1))), **accuracy(logits, labels)}


def answers(outputs: Logits, labels: Labels) -> dict[str, float]:
    """Exact match (0..1), and the perplexity: exp of the mean negative log-likelihood of all answers' tokens.

    Args:
        outputs: (n, 3) as `decoders.answer_scores` gives them.
        labels: (n,) each answer's tokens.
    """
    nats = outputs[:, 0].astype(np.float64).sum() / labels.sum()
    with np.errstate(over="ignore"):  # an infinite perplexity is reported as not defined
        return {"exact_match": float(outputs[:, 2].mean()), "perplexity": float(np.exp(nats))}


def correlations(logits: Logits, labels: Labels) -> dict[str, float]:
    """Spearman and Pearson correlation (STS-B); NaN, not defined, where the predictions are constant."""
    from scipy.stats import pearsonr, spearmanr

    values = logits.squeeze(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant input is answered by NaN, which is what is reported
        return {
            "spearman": float(spearmanr(values, labels).statistic),
            "pearson": float(pearsonr(values, labels).statistic),
        }
