"""Paired differences to LoRA in every column, seed by seed, Holm-corrected over the rows of the column."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from analysis.columns import FINGERPRINTS
from analysis.statistics.paired import Paired, paired_many
from analysis.statistics.permutation import holm
from analysis.statistics.power import seeds_needed
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
    cells: dict[tuple[int, str, str], Cell] = {}
    samples = {}
    for i, (block, runs) in enumerate(zip(blocks, runs_of, strict=True)):
        baseline, _ = baseline_of(block)
        if baseline is None:
            continue
        for task in block.tasks:
            for row in block.rows:
                if row is baseline or row.refused or baseline.refused:
                    continue
                cell, other = row.cells[task], baseline.cells[task]
                common = sorted(cell.scores.keys() & other.scores.keys())
                mismatch = _mismatch(runs, row.name, baseline.name, task, common)
                if mismatch or not common:
                    cells[i, row.name, task] = replace(cell, no_difference=mismatch or "no common seed")
                else:
                    samples[i, row.name, task] = np.array([cell.scores[s] - other.scores[s] for s in common])
    differences = dict(zip(samples, paired_many(list(samples.values()), margin), strict=True))
    for (i, name, task), difference in _corrected(blocks, differences).items():
        cells[i, name, task] = replace(blocks[i].row(name).cells[task], difference=difference)
    by_block: dict[int, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for (i, name, task), cell in cells.items():
        by_block[i][name, task] = cell
    return [mapped(block, by_block[i]) for i, block in enumerate(blocks)]


def _corrected(
    blocks: list[Block], differences: dict[tuple[int, str, str], Paired]
) -> dict[tuple[int, str, str], Paired]:
    """With Holm's p over each column; the references are not compared, so they are not of the family."""
    columns: dict[tuple[int, str], list[str]] = defaultdict(list)
    for i, name, task in differences:
        if not blocks[i].row(name).is_reference:
            columns[i, task].append(name)
    new = dict(differences)
    for (i, task), names in columns.items():
        need = seeds_needed(len(names))
        for name, p in zip(names, holm([differences[i, name, task].p for name in names]), strict=True):
            new[i, name, task] = replace(differences[i, name, task], p_holm=p, seeds_needed=need)
    return new


def _mismatch(runs: dict[tuple[str, str], Runs], name: str, baseline: str, task: str, seeds: list[int]) -> str | None:
    """Which fingerprints differ between two methods' runs of the same seed, if any."""
    ours, theirs = ({run.seed: run for run in runs[row, task]} for row in (name, baseline)) if seeds else ({}, {})
    fields = [(n, f"fingerprint_{n}") for n in FINGERPRINTS]
    different = {n for seed in seeds for n, f in fields if getattr(ours[seed], f) != getattr(theirs[seed], f)}
    return f"the runs differ in {', '.join(sorted(different))}, so they are not paired" if different else None
