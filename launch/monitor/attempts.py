"""A run's attempts, one line each: where and when, from which checkpoint, how each ended and what was decided."""

from __future__ import annotations

from tensloradist.errors import UserError
from tensloradist.results.attempts import attempt_line
from tensloradist.results.layout import RunFolder


def attempts(run: RunFolder) -> list[str]:
    """A line for each attempt, oldest first, with times of this machine's zone."""
    return [f"attempt {number}: {attempt_line(run, number, zone=None)}" for number in run.attempt_numbers()]


def log_of(run: RunFolder, attempt: int | None) -> str:
    """The log of one attempt; of the last one without a number.

    Raises:
        UserError: there is no such attempt; names those that there are.
    """
    numbers = run.attempt_numbers()
    if not numbers:
        raise UserError(f"run {run.run_id}: no attempt yet, so there is no log")
    if attempt is not None and attempt not in numbers:
        raise UserError(f"--attempt {attempt}: run {run.run_id} has {', '.join(map(str, numbers))}")
    path = run.attempt(attempt or numbers[-1]) / "log.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        text = "(there is no log)"
    except OSError as error:
        text = f"(it cannot be read: {error.strerror or error})"
    return f"== {path}\n{text}"
