"""A run's attempts, one line each: where and when, from which checkpoint, how each ended and what was decided."""

from __future__ import annotations

from datetime import datetime

from launch.display import duration
from tensloradist.errors import UserError
from tensloradist.results.attempts import attempt_files
from tensloradist.results.layout import RunFolder


def attempts(run: RunFolder) -> list[str]:
    """A line for each attempt, oldest first."""
    lines = []
    for number in run.attempt_numbers():
        folder, files = run.attempt(number), attempt_files(run, number)
        record, end, failure = files.record, files.end, files.failure
        parts = [f"attempt {number}:"]
        if record is not None:
            when = datetime.fromtimestamp(record.started).astimezone().strftime("%Y-%m-%d %H:%M:%S")
            job = f", job {record.slurm.job_id}, restart {record.slurm.restart_count}" if record.slurm else ""
            parts.append(f"{when} on {record.host}{job};")
            if record.resumed_from:
                parts.append(f"from step {record.resumed_from.step} of attempt {record.resumed_from.attempt};")
        if end is not None:
            parts.append(end.state + (f" after {duration(end.ended - record.started)}" if record else ""))
        if failure is not None:
            parts.append(f"{failure.cause}: {failure.message}")
        elif end is None and not files.unreadable:
            parts.append("has a result" if (folder / "result.json").exists() else "has not said how it ended")
        if files.decision is not None:
            parts.append(f"→ {files.decision.reason}")
        parts += (f"! {error}" for error in files.unreadable)
        lines.append(" ".join(parts))
    return lines


def log_of(run: RunFolder, attempt: int | None) -> str:
    """The log of one attempt; of the last one without a number.

    Raises:
        UserError: there is no such attempt; names those that there are.
    """
    numbers = run.attempt_numbers()
    if not numbers:
        raise UserError(f"run {run.run_id}: no attempt yet, hence no log")
    if attempt is not None and attempt not in numbers:
        raise UserError(f"--attempt {attempt}: run {run.run_id} has {', '.join(map(str, numbers))}")
    path = run.attempt(attempt or numbers[-1]) / "log.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        text = "(nothing was said)"
    except OSError as error:
        text = f"(it cannot be read: {error.strerror or error})"
    return f"== {path}\n{text}"
