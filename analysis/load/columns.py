"""The column dictionary: every column of the frame, with its type, unit and meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.model import FINGERPRINTS
from tensloradist.spec import OptimizerSpec


@dataclass(frozen=True)
class Column:
    """One column. `type` is a pandas dtype: str, float64, Int64 (integers, may be missing) or boolean."""

    type: str
    unit: str
    meaning: str


def _optimizer(name: str, annotation: Any) -> Column:
    text = str(annotation)
    is_number = "dict" not in text and any(word in text for word in ("float", "int", "Int"))
    return Column("float64" if is_number else "str", "", f"the specification's optimizer.{name}")


PLANNED = {
    "sweep": Column("str", "", "name of the sweep that planned the run"),
    "run_id": Column("str", "", "id of the run: a hash of everything that determines its result"),
    "row": Column("str", "", "row in the tables: grouping, factorisation and options"),
    "method": Column("str", "", "lora, tenslora, or another adapter method"),
    "grouping": Column("str", "", "the stacked modes; missing for lora"),
    "factorization": Column("str", "", "how the stacked updates are factorised"),
    "backbone": Column("str", "", "label of the backbone"),
    "task": Column("str", "", "label of the task"),
    "data_set": Column("str", "", "fingerprint of the task's data: equal for tasks on the same data"),
    "protocol": Column("str", "", "sound or official"),
    "condition": Column("str", "", "isorank r=… or isoparameter r=…"),
    "kind": Column("str", "", "isorank or isoparameter"),
    "condition_rank": Column("Int64", "", "rank of every mode, or of the LoRA that sets the budget"),
    "seed": Column("Int64", "", "training seed, which determines the order of the data, the head and the adapter"),
    "adapter_parameters": Column("Int64", "parameters", "parameters of the adapter without the head"),
    "budget": Column("Int64", "parameters", "LoRA's adapter parameters at the condition's rank"),
    "residual": Column("float64", "fraction", "adapter_parameters / budget - 1"),
    "all_ranks_equal": Column("boolean", "", "every mode has the condition's rank"),
    "ranks": Column("str", "", "rank of each mode"),
    "learning_rate": Column("float64", "", "largest learning rate of the schedule"),
    **{
        f"optimizer.{name}": _optimizer(name, field.annotation)
        for name, field in OptimizerSpec.model_fields.items()
        if name != "learning_rate"
    },
}
MEASURED = {
    "state": Column("str", "", "finished, diverged, failed, missing, broken, unreadable, or newer (than this version)"),
    "cause": Column("str", "", "why a failed run failed"),
    "attempt": Column("Int64", "", "number of the attempt that produced the result"),
    "metric": Column("str", "", "name of the score's metric"),
    "score": Column("float64", "the metric's own", "the protocol's test score; a fraction for accuracy, not percent"),
    "validation_score": Column("float64", "the metric's own", "score on the validation part at the last epoch"),
    "score_at_best_validation": Column("float64", "the metric's own", "test score at the epoch best on validation"),
    "best_epoch": Column("Int64", "epochs", "epoch with the best validation score, from 1"),
    "test_metrics": Column("str", "the metrics' own", "all test metrics at the last epoch, as JSON"),
    "trainable_parameters": Column("Int64", "parameters", "parameters of adapter and head"),
    "step_seconds": Column("float64", "seconds", "median duration of a training step"),
    "data_wait_share": Column("float64", "fraction", "share of the step time in which the device waited for data"),
    "samples_per_second": Column("float64", "examples / second", "throughput during training"),
    "train_seconds": Column("float64", "seconds", "duration of training"),
    "total_seconds": Column("float64", "seconds", "duration of the run, including loading and evaluation"),
    "peak_bytes": Column("Int64", "bytes", "peak memory of the device, or of the host without a device"),
    "hardware": Column("str", "", "model of the GPU, or of the CPU without a GPU"),
    "versions": Column("str", "", "library versions"),
    "precision": Column("str", "", "fp32 or bf16"),
    "threads": Column("Int64", "threads", "CPU threads of runs on the CPU; they affect times and the last digits"),
    "environment": Column("str", "", "environment variables that can change results; missing if not recorded"),
    "plugins": Column("str", "", "plugins and the hashes of their code; missing if none or not recorded"),
    "commit": Column("str", "", "commit of the code that trained the run"),
    "host": Column("str", "", "the machine"),
    "workers_per_gpu": Column("Int64", "", "number of runs that shared the GPU; times are not comparable above 1"),
    **{f"fingerprint_{n}": Column("str", "", "runs may be paired only if this is equal") for n in FINGERPRINTS},
}
COLUMNS = PLANNED | MEASURED


def typed(rows: Iterable[dict[str, Any]], columns: dict[str, Column]) -> pd.DataFrame:
    """A frame with all of these columns and their types, even if no row has a value for some of them."""
    frame = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    return frame.astype({name: column.type for name, column in columns.items()})
