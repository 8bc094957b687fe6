"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """'1 run', '2 runs'; with `many` also '1 run is', '2 runs are'."""
    return f"{number} {one if number == 1 else many or one + 's'}"
