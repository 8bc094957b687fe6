"""The whole analysis of loaded sweeps: what every command and the page show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.columns import MEASURED
from analysis.load import Loaded
from analysis.overall import Overall, build_overall
from analysis.selection import Choice
from analysis.statistics.paired import MARGIN
from analysis.tables import Block, build


@dataclass(frozen=True)
class Analysis:
    """Blocks of tables, tables over tasks, what was chosen, and warnings that stand above everything."""

    loaded: Loaded
    blocks: list[Block]
    overall: list[Overall]
    choices: list[Choice]
    warnings: list[str]
    margin: float = MARGIN

    @property
    def name(self) -> str:
        return self.loaded.name

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """run_id -> its resolved specification."""
        return {run.run_id: run.spec for manifest in self.loaded.manifests for run in manifest.runs}

    @cached_property
    def runs(self) -> dict[str, dict[str, Any]]:
        """run_id -> its measured columns; None where there is no value."""
        frame = self.loaded.frame.drop_duplicates("run_id")[["run_id", "seed", *MEASURED]].astype(object)
        return {
            str(record["run_id"]): {str(k): v for k, v in record.items()}
            for record in frame.where(frame.notna(), None).to_dict("records")
        }


def analyse(loaded: Loaded, margin: float = MARGIN) -> Analysis:
    """Everything from a frame; nothing is read or written.

    Args:
        margin: half the region of practical equivalence, in the unit of the scores.
    """
    blocks = build(loaded, margin)
    choices = [cell.choice for block in blocks for row in block.rows for cell in row.cells.values() if cell.choice]
    return Analysis(loaded, blocks, build_overall(blocks), choices, _warnings(loaded), margin)


def _warnings(loaded: Loaded) -> list[str]:
    warnings = [*loaded.warnings, *(f"Left out: {line}" for line in loaded.broken)]
    runs = loaded.frame.drop_duplicates("run_id")
    finished, total = int((runs["state"] == "finished").sum()), len(runs)
    if finished == 0:
        warnings.append(f"None of {total} runs is finished: nothing can be concluded yet.")
    elif finished < total:
        warnings.append(
            f"{finished} of {total} runs {'is' if finished == 1 else 'are'} finished; the tables show what there is."
        )
    return warnings
