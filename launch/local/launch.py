"""Launching on this machine: starts workers, shows their progress until no run is left, and prints a summary."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import typer
from rich.console import Console

from launch.local.live_view import Watcher, follow
from launch.local.workers import LocalLaunch, default_workers
from launch.planning.plan import Plan, write_manifest
from launch.worker.signals import interrupt_on_termination
from tensloradist.errors import UserError
from tensloradist.files import make_folder
from tensloradist.terminal import terminal
from tensloradist.wording import counted, duration


def launch_here(plan: Plan, root: Path, workers: int | None, takeover_after: float) -> None:
    """Train the open runs of a checked sweep, and return when all have ended.

    Raises:
        UserError: the results folder cannot be used, or runs ask for several machines.
        typer.Exit: with code 1, when some runs failed or have not ended.
    """
    console = terminal()
    text = ", ".join(f"{number} {state}" for state, number in sorted(plan.counts().items()))
    console.print(
        f"{plan.sweep.name}: {counted(len(plan.sweep.runs), 'run')} ({text}); results in {root}", highlight=False
    )
    for problem in plan.problems:
        console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
    for run in plan.sweep.runs:
        if (run.spec.compute.nodes or 1) > 1:
            raise UserError(
                f"compute.nodes: {run.spec.compute.nodes}, but this launch has one machine: launch with --profile, or "
                "without nodes"
            )
    make_folder(root)
    if not plan.to_run() and not plan.to_watch():
        write_manifest(plan.sweep, root)
        console.print(
            "Nothing to train: every run has a result, is alive elsewhere, is held, was not asked for, or cannot be "
            "read by this version."
        )
        return
    if plan.to_watch():
        console.print(
            f"{counted(len(plan.to_watch()), 'run is', 'runs are')} claimed on another machine: left alone if the "
            f"heartbeat moves, and taken over if it stands still for {takeover_after:g} s (longer, if it beats more "
            "rarely)",
            highlight=False,
        )
    local = LocalLaunch(plan, root, workers or default_workers(plan), takeover_after)
    watcher = Watcher(plan, root, local)
    interrupt_on_termination()
    try:
        local.start()
        follow(watcher, console)
    except KeyboardInterrupt:
        console.print("Stopping: the runs in progress are released; launch again to continue.")
        raise
    finally:
        local.stop()
    _summarise(watcher, console)
    console.print(f"{duration(watcher.elapsed_seconds())} in all", highlight=False)
    if watcher.failures() or local.crashed_workers() or watcher.unfinished()[1]:
        raise typer.Exit(1)


def _summarise(watcher: Watcher, console: Console) -> None:
    """Print how the launch's runs ended; failures are grouped by cause and message."""
    states = [ended.state for ended in watcher.ended.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("finished", "diverged", "failed"))
    lines = [counts]
    groups = defaultdict(list)
    for ended in watcher.failures():
        groups[ended.cause, ended.message].append(ended)
    for (cause, message), runs in groups.items():
        lines.append(f"  {len(runs)} × {cause}: {message}")
        lines += [f"      {watcher.labels.label(ended.run.run_id)}: {ended.log}" for ended in runs[:3]]
    busy, unfinished = watcher.unfinished()
    if busy:
        lines.append(f"  {counted(busy, 'run is', 'runs are')} alive elsewhere and left alone")
    if unfinished:
        lines.append(f"  {counted(unfinished, 'run has', 'runs have')} not ended; launch again to continue")
    lines += [f"  a worker ended: {line}" for line in watcher.launch.crashed_workers()]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
