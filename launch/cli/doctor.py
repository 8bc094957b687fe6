"""The command `doctor`: checks of this machine, or of a cluster by a short job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tensloradist.errors import UserError
from tensloradist.options import MACHINE, ProfileOption, ResultsOption, add
from tensloradist.results.layout import results_root


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
    """Check this machine, or a cluster with --profile.

    On this machine: versions, the results folder's file system, an all-reduce, and each GPU, which multiplies matrices
    whose products must agree with the CPU's within 90 seconds. A missing compiler, which only `compute.compile` needs,
    is reported but does not fail the check.

    On a cluster, a job of at most eight minutes runs on two nodes with the resources of one worker on each. It checks
    exclusive links, renames and syncs on the shared file system from both nodes, every GPU that it was given, an
    all-reduce between the nodes, the difference of their clocks, and versions. To check all GPUs of a node, run
    `doctor` in a job there.

    \b
    Examples:
        tensloradist doctor --results /shared/results
        tensloradist doctor --profile my_site.yaml --results /shared/results
        tensloradist doctor --labels --results /shared/results

    Exit code: 1 when a check fails.
    """
    if retract and not labels:
        raise UserError("--retract: only with --labels; add it, or leave --retract out")
    if options is not None and profile is None and not labels:
        raise UserError("--options: of a profile; add --profile, or leave it out")
    if not _checked(results_root(results), profile, options, labels, retract):
        raise typer.Exit(1)


def _checked(root: Path, profile: str | None, options: str | None, labels: bool, retract: bool) -> bool:
    """Do the checks that are asked for, each of which prints what it finds; whether all held."""
    if labels:
        from tensloradist.recheck import check_labels

        return check_labels(root, retract)
    if profile is not None:
        from launch.slurm.doctor import check_site

        return check_site(profile, options, root)
    from tensloradist.doctor import check_machine

    return check_machine(root)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    add(app, MACHINE, doctor)
