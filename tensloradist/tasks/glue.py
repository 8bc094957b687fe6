"""The GLUE tasks: their fields, labels, metrics and the official script's settings, as a table. `text` loads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tensloradist.tasks.hub import HubData

REPOSITORY = "nyu-mll/glue"
PARTS = ("train", "validation")
OFFICIAL_LENGTH = 512  # tokens that the official script pads to
OFFICIAL: dict[str, dict[str, Any]] = {"task": {"max_length": OFFICIAL_LENGTH}, "optimizer": {"warmup": 0.1}}


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One GLUE task.

    Attributes:
        fields: the texts of an example.
        labels: outputs of the head; 1 for regression.
        metric_names: the primary one first.
        classes: what the labels 0, 1 mean, in GLUE's own words.
        joined_officially: whether the official script joins the two texts into one.
    """

    name: str
    fields: tuple[str, ...]
    labels: int = 2
    metric_names: tuple[str, ...] = ("accuracy",)
    classes: tuple[str, ...] = ()
    joined_officially: bool = False

    @property
    def hub(self) -> HubData:
        return HubData(REPOSITORY, PARTS, folder=self.name)


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
GLUE_TASKS = {
    entry.name: entry
    for entry in (
        GlueTask(
            name="cola",
            fields=("sentence",),
            metric_names=("matthews", "accuracy"),
            classes=("unacceptable", "acceptable"),
        ),
        GlueTask(
            name="mrpc",
            fields=_PAIR,
            metric_names=("accuracy", "f1"),
            classes=("not_equivalent", "equivalent"),
            joined_officially=True,
        ),
        GlueTask(name="rte", fields=_PAIR, classes=_ENTAILMENT),
        GlueTask(name="sst2", fields=("sentence",), classes=("negative", "positive")),
        GlueTask(name="qnli", fields=("question", "sentence"), classes=_ENTAILMENT, joined_officially=True),
        GlueTask(name="stsb", fields=_PAIR, labels=1, metric_names=("spearman", "pearson")),
    )
}
