"""Efficiency as shown: a row for each option set, where the seconds went, and suggestions for the profile."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.monitor.efficiency import Efficiency, Spent
from tensloradist.wording import counted, duration


def render(sets: list[Efficiency], spent: Spent) -> RenderableType:
    """Everything that `tensloradist efficiency` shows."""
    table = Table(
        "profile / options", "tasks", "longest of limit", "all jobs", "CPU used", "memory used of asked", "GPUs"
    )
    for found in sets:
        used = "?" if found.memory_used is None else f"{found.memory_used / 2**30:.2f}"
        asked = "site's default" if found.memory_asked is None else f"{found.memory_asked / 2**30:g} GB"
        table.add_row(
            f"{found.profile}/{found.options}",
            str(found.tasks),
            f"{duration(found.longest_seconds)} of {duration(found.limit_seconds)}",
            duration(found.elapsed_seconds),
            "?" if found.cpu_share is None else f"{100 * found.cpu_share:.0f} %",
            f"{used} of {asked}",
            str(found.gpus),
        )
    busy = spent.busy_share
    lines = [
        f"{counted(spent.runs, 'finished run')}: start-up {duration(spent.start_seconds)}, training "
        f"{duration(spent.train_seconds)}, evaluation {duration(spent.evaluate_seconds)}, of "
        f"{duration(spent.worker_seconds)} that workers were given"
        + (f" ({100 * busy:.0f} % training and evaluation)" if busy is not None else "")
    ]
    if spent.kept_seconds:
        lines.append(f"Runs without a result yet: {duration(spent.kept_seconds)} of work that their checkpoints keep")
    if spent.unreadable:
        lines.append(
            f"{counted(spent.unreadable, 'run is', 'runs are')} left out, since results cannot be read (`status` names "
            "them)"
        )
    if spent.device_bytes:
        lines.append(f"Largest GPU memory of a run: {spent.device_bytes / 2**30:.1f} GB")
    for found in sets:
        lines += [f"{found.profile}/{found.options}: {suggestion}" for suggestion in found.suggestions]
    return Group(table, *(Text(line) for line in lines))
