"""How long runs took that are like a planned run: same backbone, data, epochs, batch size and processes."""

from __future__ import annotations

import logging
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.results.publish import read_run
from tensloradist.results.schema import Result
from tensloradist.spec import RunSpec

DURATIONS = 50  # at most so many finished runs of a kind estimate its duration
MOST_LOOKED_AT = 500  # at most so many runs are read to find them

Kind = tuple[object, ...]
log = logging.getLogger("tensloradist")


def kind(spec: RunSpec) -> Kind:
    """What runs of about the same duration have in common."""
    backbone, task, compute = spec.backbone, spec.task, spec.compute
    return (
        (backbone.fingerprint, backbone.quantization, spec.precision),
        (task.name, task.fingerprint, task.train_examples, task.max_length),
        (spec.optimizer.epochs, spec.optimizer.batch_size),
        (compute.strategy, compute.processes, compute.offload),
    )


class Durations:
    """Finished runs by their kind, read when they are first needed.

    Args:
        first: ids of the runs to look at before the others.
    """

    def __init__(self, root: Path, first: Sequence[str] = ()) -> None:
        self._root, self._first = root, first
        self._results: dict[Kind, list[Result]] | None = None

    def of(self, spec: RunSpec) -> float | None:
        """The median seconds of runs like this one; None if there are none."""
        found = self.results(spec)
        return statistics.median(result.times.total_seconds for result in found) if found else None

    def results(self, spec: RunSpec) -> list[Result]:
        """The results of runs like this one, up to DURATIONS of them."""
        if self._results is None:
            self._results = self._read()
        return self._results.get(kind(spec), [])[:DURATIONS]

    def _read(self) -> dict[Kind, list[Result]]:
        results: dict[Kind, list[Result]] = defaultdict(list)
        unreadable = []
        for folder in self._folders():
            try:
                spec, result = read_run(folder)
            except (UserError, OSError) as error:  # perhaps another sweep's, whose own launch repairs it
                unreadable.append(str(error))
                continue
            results[kind(spec)].append(result)
        if unreadable:
            log.warning("durations leave out %d results that cannot be read: %s", len(unreadable), unreadable[0])
        return results

    def _folders(self) -> Iterator[Path]:
        runs = self._root / "runs"
        others = sorted(set(os.listdir(runs)) - set(self._first)) if runs.is_dir() else []
        looked_at = 0
        for name in (*self._first, *others):
            if looked_at == MOST_LOOKED_AT:
                return
            if os.path.exists(runs / name / "result.json"):  # not where a folder may not be entered
                looked_at += 1
                yield runs / name
