"""The command `doctor`: checks of this machine, or of a cluster through a short job."""

from __future__ import annotations

from typing import Annotated

import typer

from launch.cli import ProfileOption, ResultsOption


def doctor(
    results: ResultsOption = None,
    profile: ProfileOption = None,
    options: Annotated[str | None, typer.Option("--options", help="One of the profile's option sets.")] = None,
) -> None:
    """Check this machine, or with --profile a cluster: versions, GPUs, the results folder's file system, an all-reduce.

    On a cluster a job of two minutes at most runs on two nodes: exclusive links, renames and syncs on the shared file
    system from both, the GPUs seen, an all-reduce between them, the difference of their clocks, and versions.

    Examples:

        tensloradist doctor --results /shared/results

        tensloradist doctor --profile my_site.yaml --results /shared/results

    Exit code: 1 when a check fails.
    """
    from tensloradist.doctor import check_machine
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root

    root = results_root(results)
    if profile is None:
        if options is not None:
            raise UserError("--options: of a profile; add --profile, or leave it out")
        held = check_machine(root)
    else:
        from launch.site_doctor import check_site

        held = check_site(profile, options, root)
    if not held:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)
