"""A plugin for the conformance tests: the embedded digits with a metric of its own."""

from dataclasses import replace

from tensloradist.metrics import METRICS, Metric, scorer
from tensloradist.tasks import TASKS


def hit(logits, labels):
    return logits.argmax(-1) == labels


METRICS["hits"] = Metric(name="hits", compute=lambda logits, labels: float(hit(logits, labels).mean()), correct=hit)


def load(task, backbone, protocol):
    loaded = TASKS["digits"].load(task.model_copy(update={"name": "digits"}), backbone, protocol)
    return replace(
        loaded,
        name="plugin_digits",
        primary_metric="hits",
        metric_names=("hits",),
        metrics=scorer("hits"),
    )


def example(folder):
    task, backbone = TASKS["digits"].example(folder)
    return task.model_copy(update={"name": "plugin_digits"}), backbone


TASKS["plugin_digits"] = replace(TASKS["digits"], name="plugin_digits", load=load, example=example)
