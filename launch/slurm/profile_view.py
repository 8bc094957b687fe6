"""The shipped cluster profiles as a table."""

from __future__ import annotations

from rich.table import Table

from launch.slurm.profile import SHIPPED, shipped_profiles
from tensloradist.shipped import shipped_folder
from tensloradist.terminal import say, terminal
from tensloradist.wording import counted


def show_profiles() -> None:
    """Print each shipped profile with what a task of its first option set asks for."""
    table = Table("profile", "option sets", "a task asks for", "what it is for")
    for profile in shipped_profiles():
        first = next(iter(profile.options.values()))
        asked = (
            f"{first.workers} × {counted(first.cpus_per_worker, 'CPU')}, {counted(first.gpus_per_node, 'GPU')}, "
            f"{first.time_minutes} min"
        )
        table.add_row(profile.name, ", ".join(profile.options), asked, profile.description)
    terminal().print(table)
    say(f"The files are in {shipped_folder(SHIPPED)}")
