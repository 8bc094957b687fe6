"""The Slurm arrays that drain so many runs: split by processes and by what runs need, and at the site's limit."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from launch import scheduler
from launch.failures import demand_of
from launch.policy import Growth
from launch.profile import Options
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result

if TYPE_CHECKING:
    from launch.sweep import PlannedRun

DURATIONS = 50  # finished runs that a duration is estimated from
MOST_LOOKED_AT = 500  # results that are looked at to find them


@dataclass(frozen=True)
class Array:
    """One array to be submitted: so many tasks of one option set, for runs of so many processes.

    `nodes`: what the runs say of it; None: as the option set has it. `growth`: how many times the option set's memory
    and time these runs need, after failures for lack of them.
    """

    options: str
    processes: int
    nodes: int | None
    tasks: int
    run_ids: tuple[str, ...]
    runs_per_task: int | None
    growth: Growth = field(default_factory=Growth)


def arrays(runs: list[PlannedRun], sets: dict[str, Options], root: Path, runs_per_task: int | None) -> list[Array]:
    """The arrays that drain so many runs. Several option sets compete: each could drain them all."""
    groups: dict[tuple[int, int | None, Growth], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        compute = run.spec.compute
        groups[compute.processes, compute.nodes, demand_of(RunFolder(root, run.run_id))].append(run)
    result = []
    for (processes, nodes, growth), members in sorted(groups.items(), key=_smallest_first):
        for name, options in sets.items():
            workers = options.workers if processes == 1 else 1
            each = runs_per_task or options.runs_per_task or _share(members, root, options, workers)
            ids = [run.run_id for run in members]
            result += array_of(name, options, (processes, nodes), ids, each, growth)
    return result


def _smallest_first(group: tuple[tuple[int, int | None, Growth], object]) -> tuple[int, int, int]:
    processes, nodes, growth = group[0]
    return processes, nodes or 0, growth.memory or 1


def array_of(
    name: str,
    options: Options,
    spread: tuple[int, int | None],
    run_ids: Iterable[str],
    each: int | None,
    growth: Growth,
) -> list[Array]:
    """The arrays of one option set for runs that need the same, `each` of them a task.

    Args:
        spread: processes and nodes of each run.
    """
    ids, processes = tuple(run_ids), spread[0]
    workers = options.workers if processes == 1 else 1
    limits = scheduler.limits()
    site = limits.max_array_size if limits else None
    most = min(options.max_array_size, site or options.max_array_size)
    tasks = math.ceil(len(ids) / each) if each else min(options.max_parallel, math.ceil(len(ids) / workers))
    return [Array(name, *spread, min(most, tasks - begin), ids, each, growth) for begin in range(0, tasks, most)]


def _share(runs: list[PlannedRun], root: Path, options: Options, workers: int) -> int | None:
    """Runs that fill a job's target time by the durations recorded for runs of the same task; None: not known yet."""
    seconds = []
    tasks = {run.spec.task.fingerprint for run in runs}
    for path in sorted((root / "runs").glob("*/result.json"))[:MOST_LOOKED_AT]:
        result = read_result(path)
        if result.fingerprints.data in tasks:
            seconds.append(result.times.total_seconds)
        if len(seconds) == DURATIONS:
            break
    if not seconds:
        return None
    target = 60 * (options.target_minutes or options.time_minutes / 2)
    return max(1, round(workers * target / max(statistics.median(seconds), 0.1)))
