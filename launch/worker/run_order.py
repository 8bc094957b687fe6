"""The order in which a worker goes through a manifest's runs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import groupby

from tensloradist.results.schema import ManifestRun


def rotated(runs: Sequence[ManifestRun], name: str) -> list[ManifestRun]:
    """The runs in launch order, but each seed's runs start at a place that depends on the worker's name.

    Workers that start together therefore read and claim different runs first, and every cell still gets its first seed
    before any cell gets its second.
    """
    order: list[ManifestRun] = []
    for _, group in groupby(runs, key=lambda run: run.spec.seed):
        of_seed = list(group)
        start = zlib.crc32(name.encode()) % len(of_seed)
        order += of_seed[start:] + of_seed[:start]
    return order
