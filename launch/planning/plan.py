"""The plan of a sweep, checked before anything runs: ranks and parameters of every cell, and the state of every run.

Each distinct adapter is built on torch's meta device, which takes no memory, to confirm its shapes and count.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from launch.planning.sweep_file import PlannedRun, Sweep, load_sweep
from tensloradist import backbones
from tensloradist.budget import surplus_ranks
from tensloradist.caching import cached_json
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes
from tensloradist.modes import AttentionShape
from tensloradist.results.claims import ownership
from tensloradist.results.holds import held
from tensloradist.results.layout import RunFolder, sweep_folder
from tensloradist.results.manifests import put_manifest
from tensloradist.results.publish import recover_broken
from tensloradist.results.schema import Manifest, ManifestRun
from tensloradist.results.standing import Standing, standing
from tensloradist.sources import sources_hash
from tensloradist.spec import REFERENCES
from tensloradist.tasks import task_named
from tensloradist.trackers import require_trackers

CLAIMED_ELSEWHERE = "claimed on another machine"
HELD = "held"
NOT_ASKED_FOR = "not asked for"
BROKEN = "broken"  # a launch sets the damaged result aside and trains the run again
NEWER = "made by a newer version"
UNREADABLE = "not readable"


@dataclass
class Plan:
    """A checked sweep: the state of each run, what has to be fetched first, and problems with files."""

    sweep: Sweep
    states: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter(self.states.values())

    def to_run(self) -> list[PlannedRun]:
        return [run for run in self.sweep.runs if self.states[run.run_id] in ("planned", BROKEN)]

    def restrict(self, run_ids: set[str]) -> None:
        """Leave out all runs but these."""
        for run_id, state in self.states.items():
            if run_id not in run_ids and state in ("planned", BROKEN, CLAIMED_ELSEWHERE):
                self.states[run_id] = NOT_ASKED_FOR

    def to_watch(self) -> list[PlannedRun]:
        """Runs claimed on other machines: only heartbeats show whether their owners are alive."""
        return [run for run in self.sweep.runs if self.states[run.run_id] == CLAIMED_ELSEWHERE]


def check(sweep: Sweep, root: Path) -> Plan:
    """Build every distinct adapter on the meta device, compare its count, and look up the state of every run.

    Raises:
        UserError: an adapter that cannot be expressed on its backbone, or a tracker that is not installed.
    """
    _check_adapters(sweep)
    _check_deepspeed(sweep)
    require_trackers({name: None for run in sweep.runs for name in run.spec.compute.log_with})
    states: dict[str, str] = {}
    problems: list[str] = []
    for run in sweep.runs:
        folder = RunFolder(root, run.run_id)
        found = standing(folder)
        states[run.run_id] = _state(folder, found)
        if states[run.run_id] in (BROKEN, NEWER, UNREADABLE):
            problems += found.problems
    backbone_specs = {run.spec.backbone for run in sweep.runs}
    task_specs = {run.spec.task for run in sweep.runs}
    missing = [line for spec in backbone_specs for line in backbones.missing(spec)]
    missing += [line for spec in task_specs for line in task_named(spec.name).missing(spec)]
    return Plan(sweep, states, sorted(missing), problems)


def recover(sweep: Sweep, root: Path) -> None:
    """Set broken results aside, with a warning, so that their runs are trained again."""
    for run in sweep.runs:
        recover_broken(RunFolder(root, run.run_id))


def take_back_stale(sweep: Sweep, root: Path) -> list[str]:
    """Retract finished runs that an earlier version trained on wrong labels; returns a line for each.

    Only text data sets with such results are compared: `doctor --labels` compares all.
    """
    from tensloradist.recheck import recheck
    from tensloradist.results.retract import retract

    found = recheck(root, {run.run_id: run.spec for run in sweep.runs})
    lines = []
    for run_id, difference in found.differing.items():
        aside = retract(RunFolder(root, run_id))
        lines.append(
            f"run {run_id}: {difference}: it was trained on data that was replaced. Its result is now {aside}, and it "
            "is trained again"
        )
    return lines


def _state(run: RunFolder, found: Standing) -> str:
    if found.is_over:
        return "finished"
    if found.is_left_alone:
        return NEWER if found.state == "newer" else UNREADABLE
    if found.state == "broken":
        return BROKEN
    if held(run) is not None:
        return HELD
    return {"free": BROKEN if found.problems else "planned", "alive": "alive elsewhere", "unknown": CLAIMED_ELSEWHERE}[
        ownership(run)
    ]


def _check_adapters(sweep: Sweep) -> None:
    distinct: dict[tuple[str, AttentionShape], PlannedRun] = {}
    for run in sweep.runs:
        distinct.setdefault((run.spec.adapter.model_dump_json(), run.shape), run)
    for (adapter, shape), run in distinct.items():
        if run.spec.adapter.method in REFERENCES:
            continue
        what = (adapter, repr(shape), version("torch"), sources_hash())
        built = cached_json("built", hash_bytes(*what), lambda run=run: _built(run))  # type: ignore[misc]
        if built != run.adapter_parameters:
            raise RuntimeError(
                f"{run.row}: the adapter has {built} parameters, the formula says {run.adapter_parameters}"
            )


def _built(run: PlannedRun) -> int:
    """The parameters of the run's adapter, built without memory. Importing torch takes most of the time."""
    import torch

    from tensloradist.adapter import Adapter

    with torch.device("meta"):
        return Adapter(run.spec.adapter, run.shape).num_parameters


def _check_deepspeed(sweep: Sweep) -> None:
    """Check DeepSpeed files against their runs now, so that no job has to fail for a contradiction."""
    sharded = {
        (spec.compute.model_dump_json(), spec.optimizer.model_dump_json()): spec
        for spec in (run.spec for run in sweep.runs)
        if spec.compute.zero_stage
    }
    if sharded:
        from tensloradist.training.deepspeed_config import deepspeed_config

        for spec in sharded.values():
            deepspeed_config(spec)


def as_json(plan: Plan) -> str:
    """{'runs': […]} in launch order, one entry a run, with its first condition's budget and residual."""
    runs = []
    for run in plan.sweep.runs:
        first, spec = run.conditions[0], run.spec
        runs.append(
            {
                "run_id": run.run_id,
                "conditions": [c.condition for c in run.conditions],
                "condition": first.condition,
                "method": spec.adapter.method,
                "grouping": spec.adapter.grouping,
                "factorization": spec.adapter.factorization,
                "ranks": run.ranks,
                "seed": spec.seed,
                "adapter_parameters": run.adapter_parameters,
                "budget": first.budget,
                "residual": first.residual,
                "row": run.row,
                "backbone": run.backbone,
                "task": run.task,
                "learning_rate": spec.optimizer.learning_rate,
                "state": plan.states[run.run_id],
            }
        )
    return json.dumps({"name": plan.sweep.name, "runs": runs, "missing": plan.missing}, indent=1)


def parts(sweep: Sweep) -> list[str]:
    """A line on the parts of each distinct task and protocol, if they are known without loading the data."""
    distinct = dict.fromkeys((run.spec.task, run.spec.protocol) for run in sweep.runs)
    lines = (task_named(task.name).parts(task, protocol) for task, protocol in distinct)
    return list(dict.fromkeys(line for line in lines if line is not None))


@dataclass
class Cell:
    """One row of the printed plan: the runs that differ only by seed and learning rate (and other optimiser axes)."""

    row: str
    backbone: str
    task: str
    condition: str
    ranks: dict[str, int]
    parameters: int
    residual: float
    runs: int = 0


def cells(sweep: Sweep) -> list[Cell]:
    found: dict[tuple[str, ...], Cell] = {}
    for run in sweep.runs:
        for membership in run.conditions:
            key = (run.row, run.backbone, run.task, membership.condition)
            if key not in found:
                found[key] = Cell(*key, run.ranks, run.adapter_parameters, membership.residual)
            found[key].runs += 1
    order: dict[str, list[Cell]] = defaultdict(list)
    for cell in found.values():
        order[cell.condition].append(cell)
    return [cell for condition in sweep.conditions for cell in order[condition.name]]


def rank_notes(sweep: Sweep) -> list[str]:
    """A sentence for ranks that exceed what the matrices or modes can have, with the rows that it is about."""
    rows: dict[str, list[str]] = {}
    for run in sweep.runs:
        surplus = surplus_ranks(run.spec.adapter, run.shape)
        if surplus is not None and run.row not in rows.setdefault(surplus, []):
            rows[surplus].append(run.row)
    return [f"{', '.join(names)}: {surplus}" for surplus, names in rows.items()]


def manifest_of(sweep: Sweep) -> Manifest:
    """The record of a sweep when it is launched."""
    runs = tuple(
        ManifestRun(
            run_id=run.run_id,
            spec=run.spec,
            row=run.row,
            backbone=run.backbone,
            task=run.task,
            ranks=run.ranks,
            adapter_parameters=run.adapter_parameters,
            conditions=tuple(run.conditions),
        )
        for run in sweep.runs
    )
    return Manifest(name=sweep.name, sweep_sha256=sweep.sha256, conditions=sweep.conditions, runs=runs)


def planned_manifest(path: Path) -> Manifest:
    """The manifest that a sweep file would be launched with now."""
    return manifest_of(load_sweep(str(path)))


def write_manifest(sweep: Sweep, root: Path) -> Path:
    """The sweep's immutable manifest, `results/sweeps/<name>/<digest>.json`; `latest` then names it.

    Raises:
        UserError: another launched sweep has the same name except for capital letters.
    """
    _refuse_twin(sweep.name, root)
    return put_manifest(sweep_folder(root, sweep.name), manifest_of(sweep).model_dump_json(indent=1) + "\n")


def _refuse_twin(name: str, root: Path) -> None:
    known = [path.name for path in (root / "sweeps").glob("*") if path.name.casefold() == name.casefold()]
    if known and name not in known:
        raise UserError(
            f"name: {name!r} differs from the launched sweep {known[0]!r} only in capital letters, which is one "
            "folder on some file systems; choose another name"
        )
