"""What is reported: rows that hold, fall short or were skipped, as lines of a table and as JSON. No torch here."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["holds", "falls short", "skipped"]
STATES: tuple[State, ...] = ("holds", "falls short", "skipped")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        check: what was looked at, within its part.
        text: the figures in words; of a row that falls short or was skipped, the reason.
        figures: the same for machines: numbers with their units in their names.
        output: the last lines that the part's processes wrote, where that says more than `text`.
    """

    part: str
    check: str
    state: State
    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    output: tuple[str, ...] = ()

    def line(self) -> str:
        return f"{self.state:11}  {self.part:10}  {self.check:36}  {self.text}"


HEADER = f"{'':11}  {'part':10}  {'check':36}  figures, or the reason"


class Report:
    """The rows so far, and the file that has all of them after every row.

    Raises:
        OSError: the file cannot be written: at once, before anything is measured.
    """

    def __init__(self, path: Path | None, **about: Any) -> None:
        self.path, self.about, self.rows = path, about, list[Row]()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.write()

    def write(self, **more: Any) -> None:
        """Replace the file by one with the rows so far."""
        self.about |= more
        if self.path is None:
            return
        content = {**self.about, "counts": self.counts(), "rows": [asdict(row) for row in self.rows]}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def counts(self) -> dict[State, int]:
        found = Counter(row.state for row in self.rows)
        return {state: found[state] for state in STATES}
