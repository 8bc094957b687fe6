"""The commands `plan` and `launch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from launch.plan import Plan
    from launch.watch import Watcher

ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")
]
SweepArgument = Annotated[str, typer.Argument(help="A sweep file, or the name of a shipped sweep.")]


def plan(
    sweep: SweepArgument,
    json: Annotated[bool, typer.Option("--json", help="All runs in launch order, as JSON.")] = False,
    results: ResultsOption = None,
) -> None:
    """Show every cell of a sweep: ranks, parameters, residual to the budget, and what is done; train nothing.

    Each distinct backbone and adapter is built on torch's meta device, so shapes and counts are checked.

    Examples:

        tensloradist plan demo

        tensloradist plan my_sweep.yaml --json | jq '.runs[0]'
    """
    from rich.console import Console

    from launch.plan import as_json, check
    from launch.sweep import load_sweep
    from tensloradist.results.layout import results_root

    with Console(stderr=True).status("planning (loading libraries takes a few seconds)"):
        checked = check(load_sweep(sweep), results_root(results))
    if json:
        sys.stdout.write(as_json(checked) + "\n")
        return
    _print_plan(checked)


def launch(
    sweep: SweepArgument,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes [one a GPU, or one for each compute.threads cores, up to 8]."),
    ] = None,
    results: ResultsOption = None,
    takeover_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds of stillness after which another machine's run is taken over.")
    ] = 180.0,
) -> None:
    """Train every run of a sweep that has no result yet, on this machine; interrupt and launch again to continue.

    Examples:

        tensloradist launch demo

        tensloradist launch my_sweep.yaml --workers 2 --results /scratch/results

    Exit code: 0 when all runs have results, 1 when some failed, 2 for a mistake in the sweep.
    """
    import submitit  # noqa: F401 (before anything is written: it is in an extra)
    from rich.console import Console

    from launch.plan import check, write_manifest
    from launch.submit import LocalLaunch, default_workers
    from launch.sweep import load_sweep
    from launch.watch import Watcher, duration, follow
    from tensloradist.errors import UserError
    from tensloradist.results.layout import make_folder, results_root

    console, root = Console(), results_root(results)
    with Console(stderr=True).status("planning (loading libraries takes a few seconds)"):
        checked = check(load_sweep(sweep), root)
    counts = checked.counts()
    text = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    console.print(f"{checked.sweep.name}: {len(checked.sweep.runs)} runs ({text}); results in {root}", highlight=False)
    if checked.missing:
        raise UserError("Not available offline: " + "; ".join(checked.missing) + f". Run `tensloradist fetch {sweep}`")
    make_folder(root)
    if not checked.to_run() and not checked.to_watch():
        write_manifest(checked.sweep, root)
        console.print("Nothing to train: every run has a result or is alive elsewhere.")
        return
    if checked.to_watch():
        console.print(
            f"{len(checked.to_watch())} runs are claimed on another machine: they are left alone if their heartbeats "
            f"move, and taken over if those stand still for {takeover_after:g} s",
            highlight=False,
        )
    local = LocalLaunch(checked, root, workers or default_workers(checked), takeover_after)
    watcher = Watcher(checked, root, local)
    _interrupt_on_termination()
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


def _interrupt_on_termination() -> None:
    """A terminated launch, or one whose terminal is closed, stops its workers as an interrupted one does."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores the second
            signal.signal(number, interrupt)


def _summarise(watcher: Watcher, console: object) -> None:
    """What became of the launch's runs; failures grouped by cause and message."""
    from collections import defaultdict

    from rich.console import Console

    assert isinstance(console, Console)
    states = [ended.state for ended in watcher.ended.values()]
    console.print(
        f"{states.count('finished')} finished, {states.count('diverged')} diverged, {states.count('failed')} failed",
        highlight=False,
    )
    groups = defaultdict(list)
    for ended in watcher.failures():
        groups[ended.cause, ended.message].append(ended)
    for (cause, message), runs in groups.items():
        console.print(f"  {len(runs)} × {cause}: {message}", markup=False, highlight=False, soft_wrap=True)
        for ended in runs[:3]:
            console.print(
                f"      {ended.run.task}, {ended.run.row}, seed {ended.run.spec.seed}: {ended.log}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    busy, unfinished = watcher.unfinished()
    if busy:
        console.print(f"  {busy} runs are alive elsewhere and were left alone", highlight=False)
    if unfinished:
        console.print(f"  {unfinished} runs have not ended; launch again to continue", highlight=False)
    for line in watcher.launch.crashed_workers():
        console.print(f"  a worker ended: {line}", markup=False, highlight=False, soft_wrap=True)


def _print_plan(checked: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from launch.plan import cells

    console = Console()
    console = console if console.is_terminal else Console(width=160)
    table = Table(title=f"{checked.sweep.name}: {len(checked.sweep.runs)} runs")
    for name in ("condition", "backbone", "task", "method", "ranks"):
        table.add_column(name)
    for name in ("parameters", "of budget", "runs"):
        table.add_column(name, justify="right")
    tolerances = {c.name: c.tolerance for c in checked.sweep.conditions}
    for cell in cells(checked.sweep):
        ranks = set(cell.ranks.values())
        shown = f"all {ranks.pop()}" if len(ranks) == 1 else ", ".join(f"{m} {r}" for m, r in cell.ranks.items())
        tolerance = tolerances[cell.condition]
        beyond = tolerance is not None and abs(cell.residual) > tolerance
        residual = f"{100 * cell.residual:+.1f} %" + (" !" if beyond else "")
        table.add_row(
            cell.condition, cell.backbone, cell.task, cell.row, shown, f"{cell.parameters:,}", residual, str(cell.runs)
        )
    console.print(table)
    text = ", ".join(f"{number} {state}" for state, number in sorted(checked.counts().items()))
    console.print(f"{len(checked.sweep.runs)} runs: {text}. Counts checked on the meta device.", highlight=False)
    if any(c.kind == "isoparameter" for c in checked.sweep.conditions):
        console.print("! beyond the condition's tolerance: no integer ranks come nearer", highlight=False)
    for line in checked.missing:
        console.print(f"missing: {line}", markup=False, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    app.command()(plan)
    app.command()(launch)
