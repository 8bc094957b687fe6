"""Times as Slurm writes them: 90, 90:00, 12:00:00, 1-12, 1-12:00 or 1-12:00:00."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

FORMS = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"


def seconds_of(text: str) -> int | None:
    """Seconds of a time as sbatch's --time reads it, a number alone being minutes; None for what is not a time."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip(), re.ASCII)
    if match is None:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:  # the numbers begin with hours
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, *[*numbers, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _minutes(value: Any) -> Any:
    return math.ceil(_known(value) / 60) if isinstance(value, str) else value  # as Slurm rounds


def _minutes_or_part(value: Any) -> Any:
    return _known(value) / 60 if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and not value.isdecimal():
        return _known(value)
    return int(value) if isinstance(value, str) else value


def _known(text: str) -> int:
    seconds = seconds_of(text)
    if seconds is None:
        raise ValueError(f"{text!r} is not a time; write {FORMS}")
    return seconds


# What a profile says of times: a number in the field's unit, or a text in Slurm's forms, so 12:00:00 is twelve hours.
Minutes = Annotated[int, Field(ge=1, strict=True), BeforeValidator(_minutes)]
MinutesOrPart = Annotated[float, Field(gt=0), BeforeValidator(_minutes_or_part)]
Seconds = Annotated[int, Field(ge=1, strict=True), BeforeValidator(_seconds)]
SecondsOrPart = Annotated[float, Field(gt=0), BeforeValidator(_seconds)]
