"""The commands on a launched sweep: `status`, `cancel`, `hold`, `efficiency` and `bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tensloradist.errors import UserError
from tensloradist.options import AFTER, DURING, JsonOption, LaunchedSweepArgument, ResultsOption, add

if TYPE_CHECKING:
    from tensloradist.results.schema import Manifest

HELD_BY_HAND = "held by hand"


def status(
    sweep: LaunchedSweepArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until nothing is left to do, or Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=2, help="Seconds between two refreshes of --watch.")] = 30.0,
    json: JsonOption = False,
    results: ResultsOption = None,
) -> None:
    """Show progress, time left, hours spent, and failures.

    A table of cells and seeds, then failures by cause with what to do about each. It reads the results folder, and asks
    Slurm once about the jobs.

    \b
    Examples:
        tensloradist status my_sweep --watch
        tensloradist status my_sweep --json | jq .counts
    """
    from launch.cli.actions import show_status

    show_status(sweep, results, watch=watch, every=every, json=json)


def cancel(sweep: LaunchedSweepArgument, results: ResultsOption = None) -> None:
    """Cancel a sweep's jobs and stop its workers.

    Runs in progress keep a checkpoint; `launch` goes on from there.

    \b
    Example:
        tensloradist cancel my_sweep
    """
    from launch.cli.actions import cancel_sweep

    cancel_sweep(sweep, results)


def hold(
    sweep: LaunchedSweepArgument,
    run: Annotated[list[str] | None, typer.Option("--run", help="Only this run (repeatable).")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Only this row of the tables (repeatable).")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help=f"Why, as `status` shows it [{HELD_BY_HAND}].", show_default=False)
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Release held runs instead.")] = False,
    results: ResultsOption = None,
) -> None:
    """Hold runs that have no result, or release them.

    Workers and `launch` skip held runs. The next `launch` takes the runs that were released.

    \b
    Examples:
        tensloradist hold my_sweep --method "att tucker" --reason "wrong rank"
        tensloradist hold my_sweep --run 3fa1
        tensloradist hold my_sweep --release
    """
    from launch.cli.actions import hold_sweep, release_sweep

    if release and reason is not None:
        raise UserError("--reason: not with --release; leave one of them out")
    if release:
        release_sweep(sweep, run, method, results)
    else:
        hold_sweep(sweep, run, method, reason or HELD_BY_HAND, results)


def bundle(
    sweep: LaunchedSweepArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="The archive, or a folder for it [SWEEP.bundle.tar.gz].")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Include the trained adapters and heads.")] = False,
    results: ResultsOption = None,
) -> None:
    """Pack a sweep's results into one archive for others.

    It holds specifications, results, predictions and versions; `report` and `compare` read it like a results folder.

    \b
    Examples:
        tensloradist bundle my_sweep
        tensloradist report my_sweep.bundle.tar.gz --out report
    """
    from tensloradist.results.bundle import bundle_sweep
    from tensloradist.terminal import say, terminal
    from tensloradist.wording import counted

    with terminal(stderr=True).status("bundling"):
        path, files = bundle_sweep(sweep, results, out, weights)
    say(f"{path}: {counted(files, 'file')}, {path.stat().st_size / 2**20:.1f} MiB")


def efficiency(sweep: LaunchedSweepArgument, results: ResultsOption = None) -> None:
    """Compare what Slurm jobs asked for and used.

    Shows start-up against training, too, and suggests a better profile.

    \b
    Example:
        tensloradist efficiency my_sweep
    """
    from launch.cli.actions import show_efficiency

    show_efficiency(sweep, results)


def _planned(path: Path) -> Manifest:
    from launch.planning.plan import planned_manifest

    return planned_manifest(path)


def register(app: typer.Typer) -> None:
    """Add the commands to the application, and let the library plan sweep files that were edited."""
    from tensloradist.results.planner import plan_with

    plan_with(_planned)
    add(app, DURING, status, cancel, hold)
    add(app, AFTER, efficiency, bundle)
