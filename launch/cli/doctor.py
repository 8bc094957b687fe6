"""The command `doctor`: checks of this machine, or of a cluster through a short job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.plan_and_launch import ProfileOption, ResultsOption


def doctor(
    results: ResultsOption = None,
    profile: ProfileOption = None,
    options: Annotated[str | None, typer.Option("--options", help="One of the profile's option sets.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Only compare the labels of finished runs with those of their data.")
    ] = False,
    retract: Annotated[
        bool, typer.Option("--retract", help="With --labels: take results that differ back, to be trained again.")
    ] = False,
) -> None:
    """Check this machine, or with --profile a cluster: versions, GPUs, the results folder's file system, an all-reduce.

    Each GPU multiplies matrices; the products must agree with the CPU's, and a GPU that does not answer within 90
    seconds fails. A missing compiler, which only `compute.compile` needs, is reported and does not fail the check.

    On a cluster, a job of at most eight minutes runs on two nodes with the resources of one worker on each. It checks
    exclusive links, renames and syncs on the shared file system from both nodes, every GPU that it was given, an
    all-reduce between the nodes, the difference of their clocks, and versions. To check all GPUs of a node, run
    `doctor` in a job there.

    Examples:

        tensloradist doctor --results /shared/results

        tensloradist doctor --profile my_site.yaml --results /shared/results

        tensloradist doctor --labels --results /shared/results

    Exit code: 1 when a check fails.
    """
    from tensloradist.doctor import check_machine
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root

    root = results_root(results)
    if retract and not labels:
        raise UserError("--retract: of --labels; add it, or leave --retract out")
    if labels:
        held = _check_labels(root, retract)
    elif profile is None:
        if options is not None:
            raise UserError("--options: of a profile; add --profile, or leave it out")
        held = check_machine(root)
    else:
        from launch.slurm.doctor import check_site

        held = check_site(profile, options, root)
    if not held:
        raise typer.Exit(1)


def _check_labels(root: Path, take_back: bool) -> bool:
    """Print what the comparison found; whether no run is left whose labels differ."""
    from tensloradist.errors import UserError
    from tensloradist.recheck import recheck
    from tensloradist.results.layout import RunFolder
    from tensloradist.results.retract import retract

    if not root.is_dir():
        raise UserError(f"{root}: no such results folder; use --results")
    found = recheck(root)
    number = len(found.agreed) + len(found.differing) + len(found.unchecked)
    mark = "FAILED" if found.differing else "ok" if found.agreed and not found.unchecked else "?"
    typer.echo(
        f"{mark:7} labels: {len(found.agreed)} of {number} finished runs on local data were scored on the labels it has"
    )
    for run_id, why in found.unchecked.items():
        typer.echo(f"?       run {run_id} cannot be compared: {why}")
    for run_id, difference in found.differing.items():
        typer.echo(f"FAILED  run {run_id}: {difference}; it was trained on data that was replaced")
        if take_back:
            typer.echo(f"        retracted: {retract(RunFolder(root, run_id))}; the next launch trains it again")
    if found.differing and not take_back:
        typer.echo("Add --retract to take these results back; the next launch then trains their runs again.")
    return take_back or not found.differing


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)
