"""From a sweep to its plan or its launch in one call, on this machine or on a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from launch.monitor.control import failed_runs
from launch.planning.plan import Plan, as_json, check, recover, take_back_stale
from launch.planning.plan_view import show_plan
from launch.planning.sweep_file import load_sweep
from launch.records.origin import require_unedited, sweep_to_launch
from tensloradist.errors import UserError
from tensloradist.results.layout import results_root
from tensloradist.results.sweeps import find_sweep
from tensloradist.terminal import say, terminal

if TYPE_CHECKING:
    from rich.status import Status

ANY_CAUSE = "any"
TAKEOVER_SECONDS = 180.0  # without a heartbeat, before another machine's run is taken over


def plan_sweep(source: str, *, results: Path | None = None, profile: str | None = None, json: bool = False) -> None:
    """Check a sweep without training anything, and print its cells; with a profile, also the jobs it would have.

    Args:
        source: a sweep file, or the name of a shipped or a launched sweep.
        results: the results folder as the user gave it; None for the default.
        json: print all runs as JSON instead.

    Raises:
        UserError: a mistake in the sweep or the profile.
    """
    root = results_root(results)
    source = sweep_to_launch(source, root)
    with _planning():
        plan = check(load_sweep(source), root)
    if json:
        say(as_json(plan))
        return
    show_plan(plan)
    if profile is not None:
        from launch.slurm.launch import launch_on_cluster

        launch_on_cluster(plan, root, profile, dry_run=True, results=results)


def plan_memory(
    source: str, *, results: Path | None = None, gpu: str | None = None, processes: str = "1,2,4,8", json: bool = False
) -> None:
    """Print the memory that a process of a sweep needs under every strategy.

    Args:
        gpu: plan for this GPU, and name the cheapest strategy that fits; None for what the sweep asks for.
        processes: numbers of processes, separated by commas.

    Raises:
        UserError: a mistake in the sweep, an unknown GPU, or processes that are not numbers.
    """
    from launch.planning.memory import show

    show(sweep_to_launch(source, results_root(results)), gpu, processes, json)


def launch_sweep(
    source: str,
    *,
    results: Path | None = None,
    failed: str | None = None,
    workers: int | None = None,
    takeover_after: float = TAKEOVER_SECONDS,
    profile: str | None = None,
    options: str | None = None,
    runs_per_task: int | None = None,
    dry_run: bool = False,
    snapshot: bool = False,
) -> None:
    """Train what has no result yet: here until all is done, or with a profile as Slurm jobs, which are submitted.

    Args:
        source: a sweep file, or the name of a shipped or a launched sweep.
        results: the results folder as the user gave it; None for the default.
        failed: train only runs that failed for this cause, or for 'any'; None trains all that have no result.
        workers: processes on this machine; None for one per GPU, or one per `compute.threads` cores.
        takeover_after: seconds without a heartbeat, after which another machine's run is taken over.
        options: names of the profile's option sets, separated by commas; None for the first.
        runs_per_task: that a job trains; None to fill the profile's target time.
        dry_run: show the jobs, and submit nothing.
        snapshot: jobs run a copy of the code as it is now.

    Raises:
        UserError: a mistake in the sweep or the profile, missing data, or options that do not fit together.
        typer.Exit: with code 1, when runs on this machine failed or have not ended.
    """
    import submitit  # noqa: F401 (before anything is written: it is in an extra)

    _refuse_mixture(
        profile,
        {"--workers": workers},
        {"--options": options, "--runs-per-task": runs_per_task, "--dry-run": dry_run, "--snapshot": snapshot},
    )
    root = results_root(results)
    only = None if failed is None else _failed(source, root, failed)
    if only is not None and not only:
        say("No run has failed.")
        return
    plan = _plan_to_launch(source, root, only, dry_run)
    if profile is None:
        from launch.local.launch import launch_here

        launch_here(plan, root, workers, takeover_after)
    else:
        from launch.slurm.launch import launch_on_cluster

        sets = [name.strip() for name in options.split(",")] if options else None
        launch_on_cluster(plan, root, profile, sets, runs_per_task, dry_run, snapshot, results)


def _failed(source: str, root: Path, cause: str) -> set[str]:
    """The ids of the failed runs that are meant. A line on standard error says where a file was edited since."""
    found = find_sweep(source, root)
    if found.note is not None:
        say(found.note, stderr=True)
    failed = failed_runs(found, root, None if cause == ANY_CAUSE else cause)
    if failed:
        require_unedited(source, root)
    return failed


def _plan_to_launch(source: str, root: Path, only: set[str] | None, dry_run: bool) -> Plan:
    """A checked plan, after damaged and outdated results were set aside; of some runs alone, if their ids are given."""
    source = sweep_to_launch(source, root, again=only is not None)
    with _planning():
        sweep = load_sweep(source)
        stale: list[str] = []
        if not dry_run:
            recover(sweep, root)
            stale = take_back_stale(sweep, root)
        plan = check(sweep, root)
    say(*(f"warning: {line}" for line in stale), stderr=True)
    if only is not None:
        plan.restrict(only)
    if plan.missing:
        fetch = shlex.join(("tensloradist", "fetch", source))
        raise UserError("Not available offline: " + "; ".join(plan.missing) + f". Run `{fetch}`")
    return plan


def _planning() -> Status:
    return terminal(stderr=True).status("planning (loading libraries takes a few seconds)")


def _refuse_mixture(profile: str | None, local: dict[str, object], cluster: dict[str, object]) -> None:
    """Raises UserError for options that mean nothing for this kind of launch."""
    given = [name for name, value in (local if profile else cluster).items() if value]
    if given:
        remedy = "the profile sets it" if profile else "add --profile, or leave it out"
        raise UserError(f"{', '.join(given)}: not for a launch {'with' if profile else 'without'} --profile; {remedy}")
