"""Several sweeps as one: joined where names mean the same, refused where they do not."""

from __future__ import annotations

import pandas as pd

from analysis.columns import COLUMNS
from analysis.load import Loaded
from tensloradist.errors import UserError


def joined(parts: list[Loaded]) -> Loaded:
    """One `Loaded` of several.

    Raises:
        UserError: the same name stands for different things in two sweeps.
    """
    known: dict[str, Loaded] = {}
    for part in parts:
        (manifest,) = part.manifests
        if manifest.name in known and known[manifest.name].manifests != part.manifests:
            raise UserError(f"two different sweeps are named {manifest.name!r}; rename one of them")
        known[manifest.name] = part
    frame = pd.concat([part.frame for part in known.values()], ignore_index=True)
    frame = frame.astype({name: column.type for name, column in COLUMNS.items()})
    roots = {part.root for part in known.values()}
    return Loaded(
        tuple(manifest for part in known.values() for manifest in part.manifests),
        frame.drop_duplicates(["run_id", "condition"], ignore_index=True),
        list(dict.fromkeys(line for part in known.values() for line in part.broken)),
        [line for part in known.values() for line in part.warnings],
        next(iter(roots)) if len(roots) == 1 else None,
        tuple(source for part in known.values() for source in part.sources),
    )
