"""Numbers in sentences: of things, of settings, and of seconds."""

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


def duration(seconds: float | None) -> str:
    """'2 h 05 min', '3 min 20 s' or '7 s'; '?' for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def scored(name: str, value: float | None) -> str:
    """'accuracy 0.9312'; 'f1 undefined' for None."""
    return f"{name} {value:.4f}" if value is not None else f"{name} undefined"
