"""The commands `plan`, `launch` and `profiles`; `spectra` is in a module of its own."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.spectra import spectra
from tensloradist.terminal import terminal
from tensloradist.wording import counted

if TYPE_CHECKING:
    from launch.planning.plan import Plan

ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Cluster profile: a file, or a shipped one (`tensloradist profiles`).")
]
SweepArgument = Annotated[str, typer.Argument(help="A sweep file, or the name of a shipped or a launched sweep.")]


def plan(
    sweep: SweepArgument,
    json: Annotated[bool, typer.Option("--json", help="All runs in launch order, as JSON.")] = False,
    results: ResultsOption = None,
    profile: ProfileOption = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Bytes a process under every strategy, instead of the cells.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="With --memory: plan for this GPU, e.g. h100, a100-40 or 24GiB.")
    ] = None,
    processes: Annotated[
        str, typer.Option("--processes", help="With --memory: numbers of processes to look at.")
    ] = "1,2,4,8",
) -> None:
    """Show every cell of a sweep: ranks, parameters, residual to the budget, and what is done; train nothing.

    Each distinct backbone and adapter is built on torch's meta device, so shapes and counts are checked. With --memory,
    one step of each backbone and task is traced without data, on the longest examples of the training set: by CUDA's
    rules with --gpu or where the sweep asks for CUDA, by the CPU's otherwise. No GPU is needed for either.

    Examples:

        tensloradist plan demo

        tensloradist plan my_sweep.yaml --memory --gpu h100

        tensloradist plan my_sweep.yaml --json | jq '.runs[0]'

        tensloradist plan my_sweep.yaml --profile gpu_node
    """
    from launch.planning.plan import as_json, check
    from launch.planning.sweep_file import load_sweep
    from launch.records.origin import sweep_to_launch
    from tensloradist.results.layout import results_root

    sweep = sweep_to_launch(sweep, results_root(results))
    if memory:
        from launch.planning.memory import show

        show(sweep, gpu, processes, json)
        return
    if gpu is not None:
        from tensloradist.errors import UserError

        raise UserError(f"--gpu {gpu}: only with --memory")
    with terminal(stderr=True).status("planning (loading libraries takes a few seconds)"):
        checked = check(load_sweep(sweep), results_root(results))
    if json:
        sys.stdout.write(as_json(checked) + "\n")
        return
    _print_plan(checked)
    if profile is not None:
        from launch.slurm.launch import launch_on_cluster

        launch_on_cluster(checked, results_root(results), profile, dry_run=True, results=results)


def profiles() -> None:
    """List the shipped cluster profiles; copy one, set your site's names, and give its path to --profile.

    Example:

        tensloradist profiles
    """
    from rich.table import Table

    from launch.slurm.profile import SHIPPED, shipped_profiles
    from tensloradist.shipped import shipped_folder

    console = terminal()
    table = Table("profile", "option sets", "a task asks for", "what it is for")
    for found in shipped_profiles():
        first = next(iter(found.options.values()))
        asked = (
            f"{first.workers} × {counted(first.cpus_per_worker, 'CPU')}, {counted(first.gpus_per_node, 'GPU')}, "
            f"{first.time_minutes} min"
        )
        table.add_row(found.name, ", ".join(found.options), asked, found.description)
    console.print(table)
    console.print(f"The files are in {shipped_folder(SHIPPED)}", highlight=False, soft_wrap=True)


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
    profile: ProfileOption = None,
    options: Annotated[
        str | None, typer.Option("--options", help="The profile's option sets, e.g. low,high [the first].")
    ] = None,
    runs_per_task: Annotated[
        int | None, typer.Option(min=1, help="Runs that a cluster job trains [fill the profile's target time].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cluster's jobs; submit nothing.")] = False,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Cluster jobs run a copy of the code as it is now.")
    ] = False,
) -> None:
    """Train every run of a sweep that has no result yet; interrupt and launch again to continue.

    Without --profile on this machine, until all are done. With it, as Slurm job arrays: the command submits, says what
    it left out, and returns; launching again submits only what has no result and is not alive.

    Examples:

        tensloradist launch demo

        tensloradist launch my_sweep.yaml --workers 2 --results /scratch/results

        tensloradist launch my_sweep.yaml --profile my_site.yaml --options normal,preemptible

    Exit code: 0 when all runs have results, 1 when some failed, 2 for a mistake in the sweep.
    """
    _refuse_mixture(
        profile,
        {"--workers": workers},
        {"--options": options, "--runs-per-task": runs_per_task, "--dry-run": dry_run, "--snapshot": snapshot},
    )
    names = [name.strip() for name in options.split(",")] if options else None
    launch_runs(sweep, results, profile, names, runs_per_task, dry_run, snapshot, workers, takeover_after)


def launch_runs(
    sweep: str,
    results: Path | None,
    profile: str | None = None,
    option_sets: list[str] | None = None,
    runs_per_task: int | None = None,
    dry_run: bool = False,
    snapshot: bool = False,
    workers: int | None = None,
    takeover_after: float = 180.0,
    only: set[str] | None = None,
) -> None:
    """Check a sweep and launch it, on a cluster or here; again, but `only` some of its runs, by their ids."""
    import submitit  # noqa: F401 (before anything is written: it is in an extra)

    from launch.planning.plan import check, recover, take_back_stale
    from launch.planning.sweep_file import load_sweep
    from launch.records.origin import sweep_to_launch
    from tensloradist.results.layout import results_root

    root = results_root(results)
    sweep = sweep_to_launch(sweep, root, again=only is not None)
    with terminal(stderr=True).status("planning (loading libraries takes a few seconds)"):
        expanded = load_sweep(sweep)
        stale: list[str] = []
        if not dry_run:
            recover(expanded, root)
            stale = take_back_stale(expanded, root)
        checked = check(expanded, root)
    for line in stale:
        terminal(stderr=True).print(f"warning: {line}", soft_wrap=True)
    if only is not None:
        checked.restrict(only)
    _refuse_missing(checked.missing, sweep)
    if profile is None:
        from launch.local.launch import launch_here

        launch_here(checked, root, workers, takeover_after)
    else:
        from launch.slurm.launch import launch_on_cluster

        launch_on_cluster(checked, root, profile, option_sets, runs_per_task, dry_run, snapshot, results)


def _refuse_missing(missing: list[str], sweep: str) -> None:
    from tensloradist.errors import UserError

    if missing:
        fetch = shlex.join(("tensloradist", "fetch", sweep))
        raise UserError("Not available offline: " + "; ".join(missing) + f". Run `{fetch}`")


def _refuse_mixture(profile: str | None, local: dict[str, object], cluster: dict[str, object]) -> None:
    """Options that mean nothing for the kind of launch are a mistake, not something to pass over."""
    from tensloradist.errors import UserError

    given = [name for name, value in (local if profile else cluster).items() if value]
    if given:
        remedy = "the profile says it" if profile else "add --profile, or leave it out"
        raise UserError(f"{', '.join(given)}: not for a launch {'with' if profile else 'without'} --profile; {remedy}")


def _print_plan(checked: Plan) -> None:
    from rich.table import Table

    from launch.planning.plan import cells, parts, rank_notes

    console = terminal(width=160)
    table = Table(title=f"{checked.sweep.name}: {counted(len(checked.sweep.runs), 'run')}")
    for name in ("condition", "backbone", "task", "method", "ranks"):
        table.add_column(name)
    for name in ("parameters", "of budget", "runs"):
        table.add_column(name, justify="right")
    tolerances, marked = {c.name: c.tolerance for c in checked.sweep.conditions}, False
    for cell in cells(checked.sweep):
        ranks = set(cell.ranks.values())
        shown = f"all {ranks.pop()}" if len(ranks) == 1 else ", ".join(f"{m} {r}" for m, r in cell.ranks.items())
        tolerance = tolerances[cell.condition]
        beyond = tolerance is not None and abs(cell.residual) > tolerance
        residual, marked = f"{100 * cell.residual:+.1f} %" + (" !" if beyond else ""), marked or beyond
        table.add_row(
            cell.condition, cell.backbone, cell.task, cell.row, shown, f"{cell.parameters:,}", residual, str(cell.runs)
        )
    console.print(table)
    text = ", ".join(f"{number} {state}" for state, number in sorted(checked.counts().items()))
    console.print(
        f"{counted(len(checked.sweep.runs), 'run')}: {text}. Counts checked on the meta device.", highlight=False
    )
    if marked:
        console.print("! beyond the condition's tolerance: this is the closest match with integer ranks")
    for line in parts(checked.sweep):
        console.print(line, soft_wrap=True)
    for line in rank_notes(checked.sweep):
        console.print(f"note: {line}", soft_wrap=True)
    for line in checked.missing:
        console.print(f"missing: {line}", markup=False, highlight=False)
    for line in checked.problems:
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    app.command()(plan)
    app.command()(launch)
    app.command()(profiles)
    app.command()(spectra)
