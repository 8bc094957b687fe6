"""How messages say numbers of things."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """'1 run', '10,000 runs', '2 processes': a number with its noun, which is given in the singular."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number:,} {noun}{ending}"
