"""What the live view of a launch and the status of a sweep share: the symbols of a cell's runs, by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from rich.text import Text

SYMBOLS = {
    "planned": ("·", "dim"),
    "running": ("▶", "cyan"),
    "finished": ("✓", "green"),
    "diverged": ("∞", "yellow"),
    "failed": ("✗", "red"),
    "alive elsewhere": ("⇄", "cyan"),
    "claimed on another machine": ("⇄", "cyan"),
    "claimed": ("⇄", "cyan"),
    "held": ("‖", "yellow"),
    "broken": ("!", "red"),
    "newer": ("!", "yellow"),
    "made by a newer version": ("!", "yellow"),
    "unreadable": ("!", "red"),
    "not readable": ("!", "red"),
    "not asked for": ("·", "dim"),
}


def seed_marks(runs: Iterable[tuple[int, str]]) -> Text:
    """A symbol for each (seed, state) of a cell; blanks separate the seeds that have several runs."""
    seeds: dict[int, list[str]] = defaultdict(list)
    for seed, state in runs:
        seeds[seed].append(state)
    between = " " if any(len(states) > 1 for states in seeds.values()) else ""
    marks = Text()
    for place, (_, states) in enumerate(sorted(seeds.items())):
        marks.append(between if place else "")
        for state in states:
            marks.append(*SYMBOLS[state])
    return marks
