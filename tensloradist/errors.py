"""The errors that a user can cause, and the way to phrase them.

A `UserError` names the field or file, the value found, and the remedy; every command turns it into one message and
exit code 2, without a traceback. Anything else that escapes is a bug, and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a specification, a file or a command line: reported as one message, exit code 2."""


class SpecError(UserError, ValueError):
    """A specification that cannot be: unknown fields, values that are not allowed, or that contradict each other."""


class DataMissing(UserError):
    """A data set or a model is not where it should be: to be fetched, or its path to be corrected."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that a registry does not have: suggests the nearest one and lists them all."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
