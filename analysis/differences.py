"""Paired differences to LoRA in every column, seed by seed, Holm-corrected over the rows of the column."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from analysis.columns import FINGERPRINTS
from analysis.pairing import Pairing, compared, pair
from analysis.tables import Block, Cell, Row, Runs, mapped


def baseline_of(block: Block) -> tuple[Row | None, str]:
    """The block's LoRA row, or None and why there is none to compare with."""
    found = [row for row in block.rows if row.method == "lora"]
    plain = [row for row in found if row.name == "lora"] or found
    if len(plain) == 1:
        return plain[0], ""
    return None, "no LoRA in this sweep" if not found else "several LoRA variants in this sweep"


def with_differences(blocks: list[Block], runs_of: list[dict[tuple[str, str], Runs]], margin: float) -> list[Block]:
    """All blocks with their cells' differences; computed at once, since a report may have thousands."""
    pairings: dict[tuple[int, str, str], Pairing] = {}
    for i, (block, runs) in enumerate(zip(blocks, runs_of, strict=True)):
        baseline, _ = baseline_of(block)
        if baseline is None or baseline.refused:
            continue
        fields = [f"fingerprint_{name}" for name in FINGERPRINTS]
        prints = {run.run_id: {f: getattr(run, f) for f in fields} for own in runs.values() for run in own}
        for task in block.tasks:
            for row in block.rows:
                if row is not baseline and not row.refused:
                    pairings[i, row.name, task] = pair(row.cells[task], baseline.cells[task], prints)

    def family(key: tuple[int, str, str]) -> tuple[int, str] | None:
        """A column; the references are not compared, so they are of no family."""
        i, name, task = key
        return None if blocks[i].row(name).is_reference else (i, task)

    differences = compared(pairings, margin, family)
    by_block: dict[int, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for (i, name, task), pairing in pairings.items():
        cell = blocks[i].row(name).cells[task]
        by_block[i][name, task] = replace(
            cell, difference=differences.get((i, name, task)), no_difference=pairing.why_not
        )
    return [mapped(block, by_block[i]) for i, block in enumerate(blocks)]
