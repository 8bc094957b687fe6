"""The commands `plan`, `spectra`, `launch` and `profiles`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tensloradist.errors import UserError
from tensloradist.options import (
    BEFORE,
    DURING,
    MACHINE,
    FileArgument,
    JsonOption,
    ProfileOption,
    ResultsOption,
    SweepArgument,
    add,
)


def plan(
    sweep: SweepArgument,
    json: JsonOption = False,
    results: ResultsOption = None,
    profile: ProfileOption = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Show the memory of a process under every strategy, instead of the cells.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="With --memory: plan for this GPU, e.g. h100, a100-40 or 24GiB.")
    ] = None,
    processes: Annotated[str, typer.Option("--processes", help="With --memory: numbers of processes.")] = "1,2,4,8",
) -> None:
    """Check a sweep: ranks, parameters and memory of its cells.

    Trains nothing and needs no GPU. Each distinct backbone and adapter is built on torch's meta device, so shapes and
    counts are checked, and each run is looked up in the results folder. With --profile, the jobs are shown, too.

    With --memory, one step of each backbone and task is traced without data, on the longest examples of the training
    set: by CUDA's rules with --gpu or if the sweep asks for CUDA, by the CPU's otherwise.

    \b
    Examples:
        tensloradist plan demo
        tensloradist plan my_sweep.yaml --memory --gpu h100
        tensloradist plan my_sweep.yaml --json | jq '.runs[0]'
        tensloradist plan my_sweep.yaml --profile gpu_node
    """
    from launch.launching import plan_memory, plan_sweep

    if gpu is not None and not memory:
        raise UserError(f"--gpu {gpu}: only with --memory")
    if memory:
        plan_memory(sweep, results=results, gpu=gpu, processes=processes, json=json)
    else:
        plan_sweep(sweep, results=results, profile=profile, json=json)


def spectra(
    source: FileArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for spectra.csv, spectra.svg and spectra.png (needs matplotlib)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show how a gradient's energy is spread over the modes.

    The dense gradient at the start, averaged over 8 training batches, along each mode of a sweep's or run's adapters;
    the strategy `spectrum` assigns ranks by it. It is computed once and kept in the cache. Entropy is relative: 0 means
    one direction, 1 that all directions have the same energy.

    \b
    Examples:
        tensloradist spectra mode_ranks
        tensloradist spectra run.yaml --out figures
    """
    from launch.planning.spectra import show_spectra

    show_spectra(source, out, json)


class LaunchCommand(TyperCommand):
    """`launch`, whose option --failed takes a cause or nothing."""

    # The context is click's or Typer's own copy of it, depending on Typer's version: hence Any.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after a --failed without a cause was given the cause 'any'."""
        words: list[str] = []
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            words += ["--failed", "any"] if word == "--failed" and following.startswith("-") else [word]
        return super().parse_args(ctx, words)


def launch(
    sweep: SweepArgument,
    failed: Annotated[
        str | None,
        typer.Option(
            "--failed",
            metavar="[CAUSE]",
            help="Only runs that failed, for this cause as `status` names it, or for any. Give it after SWEEP.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes [one per GPU, or one per compute.threads cores, up to 8]."),
    ] = None,
    results: ResultsOption = None,
    takeover_after: Annotated[
        float, typer.Option(min=0.1, help="Take over another machine's run after this many seconds of silence.")
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
        bool, typer.Option("--snapshot", help="Let cluster jobs run a copy of the code as it is now.")
    ] = False,
) -> None:
    """Train what has no result yet, here or on a cluster.

    Without --profile on this machine, until all is done; interrupt it, and launch again to continue. With --profile it
    submits Slurm job arrays, lists what it left out, and returns; launch again to submit what is still missing.

    With --failed, only failed runs: of a file, those that it describes now; of a name, those that were launched last.

    \b
    Examples:
        tensloradist launch demo
        tensloradist launch my_sweep.yaml --workers 2 --results /scratch/results
        tensloradist launch my_sweep.yaml --profile my_site.yaml --options normal,preemptible
        tensloradist launch my_sweep --failed out_of_host_memory --profile my_site.yaml

    Exit code: 0 when all runs have results, 1 when some failed, 2 for a mistake in the sweep.
    """
    from launch.launching import launch_sweep

    launch_sweep(
        sweep,
        results=results,
        failed=failed,
        workers=workers,
        takeover_after=takeover_after,
        profile=profile,
        options=options,
        runs_per_task=runs_per_task,
        dry_run=dry_run,
        snapshot=snapshot,
    )


def profiles() -> None:
    """List the cluster profiles to copy.

    Copy one, set your site's names, and give its path to --profile.

    \b
    Example:
        tensloradist profiles
    """
    from launch.slurm.profile_view import show_profiles

    show_profiles()


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add(app, BEFORE, plan, spectra)
    add(app, DURING, launch, cls=LaunchCommand)
    add(app, MACHINE, profiles)
