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
