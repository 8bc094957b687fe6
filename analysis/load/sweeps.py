"""Load sweeps and bundles as one tidy pandas frame with a row for each run and condition.

Nothing is dropped silently: a run without a result has a state that gives the reason, and broken files are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load.columns import COLUMNS, typed
from analysis.load.join import joined
from analysis.load.outcomes import outcomes
from analysis.model import Loaded
from tensloradist.errors import UserError
from tensloradist.names import printable
from tensloradist.results.bundle import is_bundle, opened
from tensloradist.results.schema import Condition, ManifestRun, Membership
from tensloradist.results.sweeps import find_sweep
from tensloradist.spec import OptimizerSpec


def load_from(sources: Sequence[str], root: Path) -> Loaded:
    """The results of one or more sweeps, each given as a file, a name, or a bundle (`tensloradist bundle`).

    Raises:
        UserError: a sweep was never launched with this results folder, a manifest is unreadable, a bundle is damaged,
            or two sweeps use one name for different things.
    """
    if not sources:
        raise UserError("no sweep given; name a sweep file, a launched sweep, or a bundle")
    parts = []
    for source in dict.fromkeys(sources):
        if is_bundle(source):
            with opened(Path(source)) as (name, folder):
                part = load(name, folder, use_cache=False)
                part.root = None
        else:
            part = load(source, root)
        part.sources = (source,)
        parts.append(part)
    return parts[0] if len(parts) == 1 else joined(parts)


def load(source: str, root: Path, use_cache: bool = True) -> Loaded:
    """The results of one sweep, given as a file (read as it is now) or as the name it was launched with.

    Raises:
        UserError: the sweep was never launched with this results folder, its manifest is unreadable or was edited, or
            an edited file cannot be planned.
    """
    sweep = find_sweep(source, root)
    manifest = sweep.manifest
    loaded = Loaded(manifests=(manifest,), frame=pd.DataFrame(), root=root, sources=(source,))
    if sweep.note is not None:
        loaded.warnings.append(sweep.note)
    conditions = {condition.name: condition for condition in manifest.conditions}
    try:
        rows = [
            {**_planned(run, manifest.name), **_membership(run, membership, conditions[membership.condition])}
            for run in manifest.runs
            for membership in run.conditions
        ]
    except KeyError as error:
        raise UserError(
            f"sweep {manifest.name!r}: its manifest lacks {error}; launch the sweep again with this version"
        ) from error
    measured = outcomes(root, list(dict.fromkeys(run.run_id for run in manifest.runs)), loaded.broken, use_cache)
    planned = typed(
        rows, {name: column for name, column in COLUMNS.items() if name not in measured.columns or name == "run_id"}
    )
    loaded.frame = planned.merge(measured, on="run_id", how="left", validate="many_to_one")[list(COLUMNS)]
    return loaded


def _planned(run: ManifestRun, sweep: str) -> dict[str, Any]:
    adapter, task = run.spec.adapter, run.spec.task
    return {
        "sweep": sweep,
        "run_id": run.run_id,
        "row": printable(run.row),
        "method": adapter.method,
        "grouping": adapter.grouping,
        "factorization": adapter.factorization,
        "backbone": printable(run.backbone),
        "task": printable(run.task),
        "data_set": task.fingerprint or task.name,
        "protocol": run.spec.protocol,
        "seed": run.spec.seed,
        "adapter_parameters": run.adapter_parameters,
        "ranks": ", ".join(f"{mode} {rank}" for mode, rank in run.ranks.items()),
        **_axes(run.spec.optimizer),
    }


def _membership(run: ManifestRun, membership: Membership, condition: Condition) -> dict[str, Any]:
    return {
        "condition": condition.name,
        "kind": condition.kind,
        "condition_rank": condition.rank,
        "budget": membership.budget,
        "residual": membership.residual,
        "all_ranks_equal": all(rank == condition.rank for rank in run.ranks.values()),
    }


def _axes(optimizer: OptimizerSpec) -> dict[str, Any]:
    """The optimiser fields, among whose values a selection may choose."""
    fields = {}
    for name, value in optimizer:
        fields[name if name == "learning_rate" else f"optimizer.{name}"] = (
            str(value) if isinstance(value, dict) else value
        )
    return fields
