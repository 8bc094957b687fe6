"""Join several sweeps into one if their names have the same meaning; refuse them otherwise."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pandas as pd

from analysis.load.columns import COLUMNS
from analysis.model import CELL, ENDED, Loaded
from tensloradist.errors import UserError
from tensloradist.nested import dotted
from tensloradist.results.schema import Condition, Manifest
from tensloradist.spec import identifying

Contents = dict[str, dict[str, set[str]]]  # label -> field -> values, as JSON
REMEDY = "report on them separately, or launch one of them again under another name or label"


def joined(parts: list[Loaded]) -> Loaded:
    """Join several sweeps. A run that several sweeps share becomes one row.

    Raises:
        UserError: two sweeps use the same name for different things.
    """
    known: dict[str, Loaded] = {}
    for part in parts:
        (manifest,) = part.manifests
        earlier = known.setdefault(manifest.name, part)
        if earlier.manifests != part.manifests:
            raise UserError(
                f"{earlier.sources[0]} and {part.sources[0]} are different sweeps, both named {manifest.name!r}; "
                f"{REMEDY}"
            )
    manifests = [part.manifests[0] for part in known.values()]
    for index, manifest in enumerate(manifests):
        for other in manifests[:index]:
            _refuse_clashes(other, manifest)
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    frame = frame.astype({name: column.type for name, column in COLUMNS.items()})
    # If a bundle and the folder hold the same run, keep the one with a result.
    order = (~frame["state"].isin(ENDED)).sort_values(kind="stable").index
    kept = frame.loc[order].drop_duplicates([*CELL, "run_id"]).sort_index()
    roots = {part.root for part in parts}
    return Loaded(
        manifests=tuple(manifests),
        frame=kept.reset_index(drop=True),
        broken=list(dict.fromkeys(line for part in parts for line in part.broken)),
        warnings=list(dict.fromkeys(line for part in parts for line in part.warnings)),
        root=next(iter(roots)) if len(roots) == 1 else None,
        sources=tuple(source for part in parts for source in part.sources),
    )


def _refuse_clashes(first: Manifest, second: Manifest) -> None:
    both = f"sweeps {first.name!r} and {second.name!r}"
    conditions: dict[str, Condition] = {condition.name: condition for condition in first.conditions}
    for condition in second.conditions:
        if conditions.get(condition.name, condition) != condition:
            differing = [n for n, v in condition if v != getattr(conditions[condition.name], n)]
            raise UserError(f"{both}: the condition {condition.name!r} differs in {', '.join(differing)}; {REMEDY}")
    for one, other in zip(_contents(first), _contents(second), strict=True):
        for label in one.keys() & other.keys():
            for field in sorted(one[label].keys() | other[label].keys()):
                a, b = one[label].get(field, set()), other[label].get(field, set())
                if a != b:
                    shown = " and ".join(", ".join(sorted(values)) or "not set" for values in (a, b))
                    raise UserError(f"{both}: {label} means different things: {field} is {shown}; {REMEDY}")


def _contents(manifest: Manifest) -> tuple[Contents, Contents]:
    """The fields behind each backbone-and-task label and each method label, without seeds, learning rates and ranks."""
    columns: Contents = defaultdict(lambda: defaultdict(set))
    methods: Contents = defaultdict(lambda: defaultdict(set))
    for run in manifest.runs:
        for field, value in _identity(run.spec.model_dump(mode="json")).items():
            where = methods[run.row] if field.startswith("adapter.") else columns[f"{run.backbone}, {run.task}"]
            where[field].add(json.dumps(value, sort_keys=True))
    return columns, methods


def _identity(spec: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run's identity by dotted name, without those that vary between the runs of one row."""
    fields = dict(dotted(identifying(spec)))
    varied = ("seed", "adapter.ranks", "optimizer.learning_rate")
    return {name: v for name, v in fields.items() if not any(f"{name}.".startswith(f"{field}.") for field in varied)}
