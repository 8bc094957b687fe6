"""Reads metrics.jsonl: an attempt's progress, a line for each epoch and every few seconds. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tensloradist.records import DamagedRecord, UnreadableRecord
from tensloradist.results.layout import MOST_DIGITS


def last_progress(attempt: Path) -> tuple[int | None, int | None]:
    """(updates done, updates planned) by the last whole line of an attempt's metrics.jsonl that has both."""
    try:
        lines = (attempt / "metrics.jsonl").read_bytes().splitlines()[-50:]
    except OSError:
        return None, None
    for line in reversed(lines):
        try:
            record = json.loads(line)
            step, steps = record["step"], record["steps"]
        except (ValueError, TypeError, KeyError, RecursionError):  # torn, being written, or without steps
            continue
        if isinstance(step, int) and isinstance(steps, int) and 0 <= step <= steps < 10**MOST_DIGITS:
            return step, steps
    return None, None


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The records of a metrics.jsonl, and a warning if a crash has torn its last line.

    Raises:
        UnreadableRecord: another line is not a record, or the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UnreadableRecord(path, f"the metrics cannot be read ({error.strerror or error})") from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"{type(record).__name__} in place of an object")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return records, f"{path}: line {number} was torn by a crash and is left out ({error})"
            raise DamagedRecord(path, "the metrics", f"line {number} is not JSON: {error}") from error
        records.append(record)
    return records, None
