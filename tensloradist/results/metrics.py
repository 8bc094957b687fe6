"""Reading metrics.jsonl: an attempt's progress, a line of JSON for each epoch and every few seconds. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The records of a metrics.jsonl, and what is wrong with its last line if a crash has torn it."""
    lines = path.read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                return records, f"{path}: line {number} was torn by a crash and is left out ({error})"
            raise ValueError(f"{path}: line {number} is no JSON: {error}") from error
    return records, None
