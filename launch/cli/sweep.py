"""The commands on a launched sweep: status, cancel, retry, hold, release, logs, why, bundle, efficiency."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.plan_and_launch import ProfileOption, ResultsOption
from tensloradist.terminal import terminal
from tensloradist.wording import counted

if TYPE_CHECKING:
    from tensloradist.results.schema import Manifest
    from tensloradist.results.sweeps import FoundSweep

SweepArgument = Annotated[str, typer.Argument(help="A sweep file, or the name of a launched sweep.")]
RunArgument = Annotated[str, typer.Argument(help="A run's id, or the beginning of one.")]
RunsOption = Annotated[list[str] | None, typer.Option("--run", help="Only this run (repeat for more).")]
MethodsOption = Annotated[list[str] | None, typer.Option("--method", help="Only this row of the tables (repeat).")]


def status(
    sweep: SweepArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until nothing is left to do, or Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=2, help="Seconds between two looks of --watch.")] = 30.0,
    json: Annotated[bool, typer.Option("--json", help="Every run, the jobs and the counts, as JSON.")] = False,
    results: ResultsOption = None,
) -> None:
    """Show a sweep's runs, cell × seed, with progress, time left, hours spent, and failures with what to do.

    The files are read first. Slurm is asked once for the queue, and once about each job that has left it.

    Examples:

        tensloradist status my_sweep --watch

        tensloradist status my_sweep --json | jq .counts
    """
    import time

    from launch import site
    from launch.monitor.jobs import Jobs
    from launch.monitor.status import collect
    from launch.monitor.status_view import render
    from launch.records.origin import Hints
    from tensloradist.results.layout import results_root
    from tensloradist.results.sweeps import find_sweep

    root = results_root(results)
    found = find_sweep(sweep, root)
    name, edited = found.manifest.name, found if found.note else None
    jobs = Jobs(name, root, site.scheduler())
    if json:
        sys.stdout.write(collect(name, root, jobs, edited).to_json() + "\n")
        return
    console = terminal(width=160)
    hints = Hints.of(sweep, found, root, results)
    if not watch:
        console.print(render(collect(name, root, jobs, edited), hints), crop=False)
        return
    if not console.is_terminal:
        while True:
            now = collect(name, root, jobs, edited)
            console.print(render(now, hints), crop=False)
            if not now.is_open:
                return
            time.sleep(every)
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = collect(name, root, jobs, edited)
            live.update(render(now, hints, live=True), refresh=True)
            if not now.is_open:
                return
            time.sleep(every)


def cancel(sweep: SweepArgument, results: ResultsOption = None) -> None:
    """Cancel a sweep's jobs and stop its workers; the runs in progress keep a checkpoint. `launch` goes on from there.

    Example:

        tensloradist cancel my_sweep
    """
    from launch import site
    from launch.monitor import control
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root
    from tensloradist.results.sweeps import sweep_name

    root = results_root(results)
    done = control.cancel(sweep_name(sweep, root), root, site.scheduler())
    typer.echo(
        f"Cancelled {counted(len(done.jobs), 'Slurm job')}; "
        f"{counted(done.local, 'launch without Slurm was', 'launches without Slurm were')} told to stop."
    )
    for cluster, ids in done.elsewhere.items():
        typer.echo(
            f"On the cluster {cluster}, workers will stop by themselves; what waits there: scancel {' '.join(ids)}"
        )
    for problem in done.unreadable:
        typer.echo(f"warning: {problem}; there may be jobs of it: squeue --me")
    if done.unwritten:
        raise UserError(
            f"not written: {', '.join(done.unwritten)}; workers that run outside of Slurm, or on another cluster, do "
            "not stop by themselves: make room or get write access, and cancel again"
        )


def retry(
    sweep: Annotated[str, typer.Argument(help="The sweep file, or the name of a launched sweep.")],
    cause: Annotated[
        str | None, typer.Option(help="Only runs that failed for this cause, as `status` names it.")
    ] = None,
    profile: ProfileOption = None,
    results: ResultsOption = None,
) -> None:
    """Launch again the runs that failed, and no others; on a cluster with --profile, else here.

    Of a file, those of the runs that it says now. Of a name, those of the sweep as it was launched last.

    Examples:

        tensloradist retry my_sweep --cause out_of_host_memory --profile my_site.yaml

        tensloradist retry demo
    """
    from launch import site
    from launch.cli.plan_and_launch import launch_runs
    from launch.monitor import control
    from launch.records.origin import require_unedited
    from tensloradist.results.layout import results_root

    root = results_root(results)
    found = _found(sweep, root)
    only = control.failed_runs(found, root, cause, site.scheduler())
    if not only:
        typer.echo("No run has failed.")
        return
    require_unedited(sweep, root)
    launch_runs(sweep, results, profile, only=only)


def hold(
    sweep: SweepArgument,
    run: RunsOption = None,
    method: MethodsOption = None,
    reason: Annotated[str, typer.Option(help="Shown by `status`.")] = "held by hand",
    results: ResultsOption = None,
) -> None:
    """Hold runs that have no result: workers and `launch` pass them over until they are released.

    Examples:

        tensloradist hold my_sweep --method "att tucker" --reason "wrong rank"

        tensloradist hold my_sweep --run 3fa1
    """
    from launch.monitor import control
    from tensloradist.results.layout import results_root

    root = results_root(results)
    runs = control.chosen(_found(sweep, root).manifest, run, method)
    typer.echo(f"{counted(control.hold_runs(root, runs, reason), 'run is', 'runs are')} held now.")


def release(
    sweep: SweepArgument, run: RunsOption = None, method: MethodsOption = None, results: ResultsOption = None
) -> None:
    """Release held runs: the next `launch` takes them.

    Example:

        tensloradist release my_sweep
    """
    from launch.monitor import control
    from launch.records.origin import Hints
    from tensloradist.results.layout import results_root

    root = results_root(results)
    found = _found(sweep, root)
    number = control.release_runs(root, control.chosen(found.manifest, run, method))
    go_on = Hints.of(sweep, found, root, results).launch()
    what = "takes it" if number == 1 else "takes them"
    typer.echo(f"{counted(number, 'run is', 'runs are')} released; the next launch {what}: {go_on}")


def logs(
    run: RunArgument,
    attempt: Annotated[int | None, typer.Option(help="Which attempt [the last].")] = None,
    results: ResultsOption = None,
) -> None:
    """Print a run's attempts, and the log of one of them.

    Examples:

        tensloradist logs 3fa1

        tensloradist logs 3fa1 --attempt 1
    """
    from launch.monitor.attempts import attempts, log_of
    from launch.planning.labels import label_in
    from tensloradist.results.layout import find_run, results_root

    folder = find_run(run, root := results_root(results))
    if label := label_in(root, folder.run_id):
        typer.echo(f"{folder.run_id}: {label}")
    for line in attempts(folder):
        typer.echo(line)
    typer.echo(log_of(folder, attempt))


def why(run: RunArgument, results: ResultsOption = None) -> None:
    """Say why a run is new (what differs from its nearest relative with a result) or stale (code, versions since).

    Example:

        tensloradist why 3fa1
    """
    from rich.table import Table

    from launch.monitor.run_diff import explain
    from tensloradist.results.layout import results_root

    with terminal(stderr=True).status("comparing"):
        found = explain(run, results_root(results))
    console = terminal()
    if found.trained:
        changes, sides = found.versions, ("its result", "now")
        head = f"{found.run_id} has a result" + (
            ", made with other code or versions (stale):" if changes else ", made with this code and these versions."
        )
    elif found.relative is None:
        changes, sides, head = [], ("", ""), f"{found.run_id} is new: no other run has a result here."
    else:
        changes, sides = found.fields, (found.relative, found.run_id)
        head = f"{found.run_id} is new; its nearest relative with a result, {found.relative}, differs in:"
    console.print(head, highlight=False)
    if changes:
        table = Table("field", *(side for side in sides), box=None)
        for name, old, new in changes:
            table.add_row(name, f"- {old}", f"+ {new}")
        console.print(table)
    for line in found.left_out:
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)


def bundle(
    sweep: SweepArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="The archive, or a folder for it [SWEEP.bundle.tar.gz].")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="With the trained adapters and heads.")] = False,
    results: ResultsOption = None,
) -> None:
    """Write a sweep's specs, results, predictions and versions into one archive, for `report` to read elsewhere.

    Examples:

        tensloradist bundle my_sweep

        tensloradist report my_sweep.bundle.tar.gz --out report
    """
    from tensloradist.results.bundle import SUFFIX, write_bundle
    from tensloradist.results.layout import results_root
    from tensloradist.results.manifests import latest_digest
    from tensloradist.results.sweeps import find_sweep

    root = results_root(results)
    found = find_sweep(sweep, root)
    found.require_launched("A bundle holds a sweep as it was launched last")
    name = found.manifest.name
    digest = latest_digest(name, root)
    archive = f"{name}{SUFFIX}"
    target = out / archive if out is not None and out.is_dir() else out or Path(archive)
    with terminal(stderr=True).status("bundling"):
        number = write_bundle(root, found.manifest, digest, target, weights)
    typer.echo(f"{target}: {counted(number, 'file')}, {target.stat().st_size / 2**20:.1f} MiB")


def efficiency(sweep: SweepArgument, results: ResultsOption = None) -> None:
    """Show what a sweep's Slurm jobs asked for and used, start-up against training, and suggest a better profile.

    Example:

        tensloradist efficiency my_sweep
    """
    from launch import site
    from launch.monitor.efficiency import account
    from launch.monitor.efficiency_view import render
    from tensloradist.results.layout import results_root
    from tensloradist.results.sweeps import sweep_name

    root = results_root(results)
    console = terminal(width=160)
    console.print(render(*account(sweep_name(sweep, root), root, site.scheduler())))


def _found(sweep: str, root: Path) -> FoundSweep:
    """The sweep that is meant; where its file was edited since the launch, a line says so."""
    from tensloradist.results.sweeps import find_sweep

    found = find_sweep(sweep, root)
    if found.note is not None:
        typer.echo(found.note, err=True)
    return found


def _planned(path: Path) -> Manifest:
    from launch.planning.plan import planned_manifest

    return planned_manifest(path)


def register(app: typer.Typer) -> None:
    """Add this package's commands on launched sweeps to the application, and how an edited file is read."""
    from tensloradist.results.planner import plan_with

    plan_with(_planned)
    for command in (status, cancel, retry, hold, release, logs, why, bundle, efficiency):
        app.command()(command)
