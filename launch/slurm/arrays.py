"""The job arrays for a launch's runs, divided by processes, by what the runs need, and at the site's limit."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launch.records.policy import Growth
from launch.slurm import commands
from launch.slurm.durations import Durations
from launch.slurm.profile import Options
from launch.worker.failures import demand_of
from tensloradist.results.layout import RunFolder

if TYPE_CHECKING:
    from launch.planning.sweep_file import PlannedRun


@dataclass(frozen=True)
class Array:
    """One array to be submitted.

    Attributes:
        options: the name of its option set.
        processes, nodes: of each run; nodes None: as the option set says.
        runs_per_task: a task ends after this many; None: when no run is left.
        growth: how many times the option set's memory and time these runs need, after failures for lack of them.
        parallel: how many of its tasks may run at the same time.
    """

    options: str
    processes: int
    nodes: int | None
    tasks: int
    run_ids: tuple[str, ...]
    runs_per_task: int | None
    growth: Growth = field(default_factory=Growth)
    parallel: int = 1


def arrays(
    runs: list[PlannedRun],
    sets: Mapping[str, Options],
    root: Path,
    runs_per_task: int | None,
    finished: Sequence[str] = (),
) -> list[Array]:
    """The arrays for these runs. With several option sets, each has enough tasks for all runs, and they compete.

    Args:
        runs_per_task: the user's choice; None: the profile's, or as many as fill its target time.
        finished: ids of runs of the same sweep that have results; durations are looked up in these first.
    """
    groups: dict[tuple[int, int | None, Growth], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        compute = run.spec.compute
        groups[compute.processes, compute.nodes, demand_of(RunFolder(root, run.run_id))].append(run)
    known = Durations(root, finished)
    result = []
    for (processes, nodes, growth), members in sorted(groups.items(), key=_smallest_first):
        for name, options in sets.items():
            each, at_least = runs_per_task or options.runs_per_task, 0
            if each is None:
                workers = options.workers if processes == 1 else 1
                at_least = min(options.max_parallel, math.ceil(len(members) / workers))
                each = _share(members, known, options, workers, at_least)
            ids = [run.run_id for run in members]
            result += array_of(name, options, (processes, nodes), ids, each, growth, at_least)
    for name, options in sets.items():
        places = [place for place, array in enumerate(result) if array.options == name]
        for place, array in zip(places, in_parallel([result[p] for p in places], options.max_parallel), strict=True):
            result[place] = array
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
    at_least: int = 0,
) -> list[Array]:
    """The arrays of one option set for runs with the same needs.

    Args:
        spread: processes and nodes of each run.
        each: runs a task; None: each task takes runs until none is left.
        at_least: the fewest tasks.
    """
    ids = tuple(run_ids)
    limits = commands.limits()
    site = limits.max_array_size if limits else None
    most = min(options.max_array_size, site or options.max_array_size)
    tasks = max(math.ceil(len(ids) / each) if each else 1, at_least)
    made = [Array(name, *spread, min(most, tasks - begin), ids, each, growth) for begin in range(0, tasks, most)]
    return in_parallel(made, options.max_parallel)


def in_parallel(arrays: Sequence[Array], most: int) -> list[Array]:
    """One option set's arrays, with `most` parallel tasks divided in proportion to their tasks, at least one each."""
    found = [replace(array, parallel=1) for array in arrays]
    for _ in range(most - len(found)):
        waiting = [index for index, array in enumerate(found) if array.parallel < array.tasks]
        if not waiting:
            break
        next_one = max(waiting, key=lambda index: found[index].tasks / found[index].parallel)
        found[next_one] = replace(found[next_one], parallel=found[next_one].parallel + 1)
    return found


def _share(runs: Sequence[PlannedRun], known: Durations, options: Options, workers: int, at_least: int) -> int | None:
    """Runs that fill a job's target time, by the durations of similar runs; None if some durations are unknown.

    Few enough to leave work for `at_least` tasks.
    """
    seconds = [known.of(run.spec) for run in runs]
    if any(value is None for value in seconds):
        return None
    mean = statistics.fmean(value for value in seconds if value is not None)
    target = 60 * (options.target_minutes or options.time_minutes / 2)
    fill = max(1, round(workers * target / max(mean, 0.1)))
    return math.ceil(len(runs) / max(math.ceil(len(runs) / fill), at_least))
