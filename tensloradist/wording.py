"""Numbers in sentences: of things, and of settings."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """'1 run', '10,000 runs', '2 processes'; with `many` also '1 run is', '2 runs are'."""
    several = many or one + ("es" if one.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{number:,} {one if number == 1 else several}"


def exactly(value: int | float) -> str:
    """A number as short as it can be without being another: '0.001', '0.0010000001'."""
    short = f"{value:g}"
    if float(short) == value:
        return short
    return str(value) if isinstance(value, int) else repr(float(value))
