"""What the commands on a launched sweep do: show its status and efficiency, cancel it, hold and release its runs."""

from __future__ import annotations

import time
from pathlib import Path

from rich.live import Live

from launch.monitor import control, efficiency_view
from launch.monitor.status import SweepStatus, collect
from launch.monitor.status_view import render
from launch.records.origin import Hints
from launch.slurm.efficiency import account
from launch.slurm.jobs import Jobs
from tensloradist.errors import UserError
from tensloradist.results.layout import results_root
from tensloradist.results.sweeps import FoundSweep, find_sweep, sweep_name
from tensloradist.terminal import say, terminal
from tensloradist.wording import counted


def show_status(
    source: str, results: Path | None = None, *, watch: bool = False, every: float = 30.0, json: bool = False
) -> None:
    """Print a sweep's status.

    Args:
        source: a sweep file, or the name of a launched sweep.
        results: the results folder as the user gave it; None for the default.
        watch: refresh it until nothing is left to do.
        every: seconds between two looks.
        json: print every run, the jobs and the counts as JSON, once.

    Raises:
        UserError: the sweep was never launched into this results folder.
    """
    root = results_root(results)
    found = find_sweep(source, root)
    name, edited = found.manifest.name, found if found.note else None
    if json:
        say(collect(name, root, edited=edited).to_json())
        return
    console = terminal(width=160)
    jobs, hints = Jobs(name, root), Hints.of(source, found, root, results)

    def look() -> SweepStatus:
        return collect(name, root, jobs, edited)

    if watch and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while (status := look()).is_open:
                live.update(render(status, hints, live=True), refresh=True)
                time.sleep(every)
            live.update(render(status, hints, live=True), refresh=True)
        return
    console.print(render(status := look(), hints), crop=False)
    while watch and status.is_open:
        time.sleep(every)
        console.print(render(status := look(), hints), crop=False)


def show_efficiency(source: str, results: Path | None = None) -> None:
    """Print what a sweep's jobs asked for and used.

    Raises:
        UserError: the sweep was never launched on a cluster.
    """
    root = results_root(results)
    terminal(width=160).print(efficiency_view.render(*account(sweep_name(source, root), root)))


def cancel_sweep(source: str, results: Path | None = None) -> None:
    """Cancel a sweep's jobs, and stop its workers.

    Raises:
        UserError: Slurm does not answer or refuses, or a file that tells workers to stop cannot be written.
    """
    root = results_root(results)
    done = control.cancel(sweep_name(source, root), root)
    stopped = counted(done.local, "launch without Slurm was", "launches without Slurm were")
    say(f"Cancelled {counted(len(done.jobs), 'Slurm job')}; {stopped} told to stop.")
    for cluster, ids in done.elsewhere.items():
        say(f"On the cluster {cluster}, workers will stop by themselves; what waits there: scancel {' '.join(ids)}")
    say(*(f"warning: {problem}; there may be jobs of it: squeue --me" for problem in done.unreadable))
    if done.unwritten:
        raise UserError(
            f"not written: {', '.join(done.unwritten)}; workers that run outside of Slurm, or on another cluster, do "
            "not stop by themselves: make room or get write access, and cancel again"
        )


def hold_sweep(
    source: str, run_ids: list[str] | None, methods: list[str] | None, reason: str, results: Path | None = None
) -> None:
    """Hold the runs of a sweep that have no result.

    Args:
        run_ids: ids, or beginnings of ids; None for all runs.
        methods: rows of the tables; None for all.

    Raises:
        UserError: an id or a method that the sweep does not have.
    """
    root = results_root(results)
    runs = control.chosen(_found(source, root).manifest, run_ids, methods)
    say(f"{counted(control.hold_runs(root, runs, reason), 'run is', 'runs are')} held now.")


def release_sweep(
    source: str, run_ids: list[str] | None, methods: list[str] | None, results: Path | None = None
) -> None:
    """Release held runs of a sweep; arguments and errors as for `hold_sweep`."""
    root = results_root(results)
    found = _found(source, root)
    number = control.release_runs(root, control.chosen(found.manifest, run_ids, methods))
    launch = Hints.of(source, found, root, results).launch()
    what = "takes it" if number == 1 else "takes them"
    say(f"{counted(number, 'run is', 'runs are')} released; the next launch {what}: {launch}")


def _found(source: str, root: Path) -> FoundSweep:
    """The sweep that is meant; if its file was edited since the launch, a line on standard error says so."""
    found = find_sweep(source, root)
    if found.note is not None:
        say(found.note, stderr=True)
    return found
