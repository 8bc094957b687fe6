"""What the live view of a launch and a sweep's status share: the symbols of a run's states, and durations in words."""

from __future__ import annotations

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


def duration(seconds: float | None) -> str:
    """'2 h 05 min', '3 min 20 s' or '7 s'; '?' for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
