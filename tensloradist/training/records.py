"""What a run writes into its attempt folder while it trains, and the scores that it keeps on the way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from tensloradist.files import write_replacing
from tensloradist.results.layout import CLASSES

if TYPE_CHECKING:
    from tensloradist.tasks.base import LoadedTask

Score = dict[str, float | None]
_FILE_SECONDS, _SHOW_SECONDS = 2.0, 0.5


def defined(metrics: Mapping[str, float]) -> Score:
    """Metrics as plain floats; null where one is not defined (NaN), since JSON has no NaN."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


class AttemptWriter:
    """metrics.jsonl and predictions.safetensors of one attempt, and the progress shown meanwhile."""

    def __init__(self, folder: Path, is_main: bool, progress: Callable[[dict[str, Any]], None] | None) -> None:
        self.folder = folder
        self.is_main = is_main
        self.show = progress
        self._filed = self._shown = -math.inf  # when a step was last written, and when last shown

    def event(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if self.is_main:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def announce(self, record: dict[str, Any]) -> None:
        """Show a record that is not written."""
        if self.show and self.is_main:
            self.show(record)

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Record an update, at most every two seconds; show it at most twice a second."""
        now = time.monotonic()
        record = {"epoch": epoch, "step": step, "steps": steps, "loss": loss}
        if now - self._filed >= _FILE_SECONDS:
            self._filed = now
            self.event(record)
        if self.show and self.is_main and (now - self._shown >= _SHOW_SECONDS or step == steps):
            self._shown = now
            self.show(record)

    def epoch(self, record: dict[str, Any]) -> None:
        """Record an epoch that is done, and show it."""
        self.event(record)
        self.announce(record)

    def resume(self, history: Sequence[dict[str, Any]], step: int, checkpoint: Path) -> None:
        """Begin with the epochs that earlier attempts have done, so that this attempt's file is complete."""
        for record in (*history, {"resumed_from": {"step": step, "checkpoint": str(checkpoint)}}):
            self.event(record)

    def classes(self, names: Sequence[str]) -> None:
        """Write classes.json: what the labels 0, 1, … stand for, so that the adapter can be used without the data."""
        if self.is_main and names:
            write_replacing(self.folder / CLASSES, json.dumps(list(names), indent=1) + "\n")

    def predictions(self, logits: Mapping[str, np.ndarray], task: LoadedTask) -> None:
        """Write logits, labels (safetensors) and ids (JSON in its metadata) of the scored state, split by split."""
        if not self.is_main or not logits:
            return
        tensors: dict[str, np.ndarray] = {}
        ids: dict[str, list[str]] = {}
        for split, values in logits.items():
            data = getattr(task, split)
            tensors[f"{split}.logits"] = np.ascontiguousarray(values, dtype=np.float32)
            tensors[f"{split}.labels"] = np.ascontiguousarray(data.labels)
            ids[split] = list(data.ids)
        # One entry: safetensors writes several in a random order, and equal runs are to have equal files.
        content = save(tensors, metadata={"ids": json.dumps(ids)})
        write_replacing(self.folder / "predictions.safetensors", content)


class Scores:
    """Validation scores by epoch, and the test scores that the protocol asks for.

    sound: test at the last epoch, and at the epoch that was best on validation. official: validation *is* the test
    part, and each metric's best value over the epochs is reported: the highest, or the lowest for `lower_is_better`.
    """

    def __init__(self, official: bool, primary: str, lower_is_better: Collection[str] = ()) -> None:
        self.official, self.primary, self._lower = official, primary, lower_is_better
        self.validation: dict[int, Score] = {}
        self.best_epoch: int | None = None
        self.test: Score = {}
        self.test_at_best: Score = {}
        self.predictions: dict[str, np.ndarray] = {}

    def add_validation(self, epoch: int, metrics: Score, logits: np.ndarray) -> bool:
        """Record an epoch; True if it is the best so far by the primary metric (the first of equals)."""
        best = self.validation.get(self.best_epoch or 0, {}).get(self.primary)
        value = metrics[self.primary]
        self.validation[epoch] = metrics
        self.predictions["validation"] = logits
        if self.best_epoch is None or (value is not None and (best is None or value > best)):
            self.best_epoch = epoch
            return True
        return False

    def set_test(self, metrics: Score, logits: np.ndarray) -> None:
        self.test, self.predictions["test"] = metrics, logits

    def set_test_at_best(self, metrics: Score) -> None:
        self.test_at_best = metrics

    def set_test_official(self, logits: np.ndarray) -> None:
        """`logits`: of the state at the best epoch, which is the scored one."""
        names = self.validation[1]
        best: Score = {}
        for name in names:
            values = [m[name] for m in self.validation.values()]
            best[name] = (min if name in self._lower else max)((v for v in values if v is not None), default=None)
        self.test = self.test_at_best = best
        self.predictions = {"validation": logits, "test": logits}

    def diverged(self, names: tuple[str, ...]) -> None:
        self.test = self.test_at_best = dict.fromkeys(names)
        self.validation[max(self.validation, default=0) + 1] = dict.fromkeys(names)
        self.best_epoch, self.predictions = None, {}

    def epoch(self, epoch: int) -> dict[str, Any]:
        return {"validation": self.validation[epoch]}

    def flat(self, epoch: int) -> dict[str, float]:
        return {f"validation/{name}": v for name, v in self.validation[epoch].items() if v is not None}

    def final(self) -> dict[str, Any]:
        """The fields of `schema.Metrics`."""
        last = self.validation[max(self.validation)]
        validation = self.test if self.official else last
        return {
            "primary": self.primary,
            "validation": validation,
            "test": self.test,
            "test_at_best_validation": self.test_at_best,
            "best_epoch": self.best_epoch,
            "score": self.test.get(self.primary),
            "validation_score": validation.get(self.primary),
        }
