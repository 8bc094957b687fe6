"""The errors that a user can cause.

A `UserError` names the field or file, the value found, and the remedy. Every command turns it into one message and exit
code 2, without a traceback. Any other exception that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake in a specification, a file or a command line."""


class SpecError(UserError, ValueError):
    """An invalid specification: unknown fields, or values that are not allowed or contradict each other."""


class DataMissing(UserError):
    """A data set or model is missing: fetch it, or correct its path."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for an unknown name; it suggests the nearest known name and lists all of them."""
    names = sorted(known)
    return UserError(f"Unknown {kind} {name!r}.{suggestion(str(name), names)} Known: {', '.join(names) or 'none'}.")


def suggestion(name: str, known: Sequence[str]) -> str:
    """' Did you mean 'nearest'?', or nothing if no known name is similar. Knows initials: lr for learning_rate."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near = near or [other for other in known if name == "".join(word[0] for word in other.split("_") if word)]
    return f" Did you mean {near[0]!r}?" if near else ""
