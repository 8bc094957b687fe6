"""Sweep files: methods × conditions × axes × seeds, expanded into run specifications in seed-major order.

Any scalar given as a list is an axis, also inside mappings such as `lr_multipliers`. Fields that are lists by nature
(`projections`) are an axis only as a list of lists; `compute`, which does not change a result, never is. A run that
belongs to two conditions is planned once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from launch.planning.axes import Fields, axes, is_axis, sections
from launch.planning.table_labels import part_labels, row_label
from tensloradist import backbones, budget
from tensloradist.allocation import by_spectrum
from tensloradist.config import expand_paths, read_sweep
from tensloradist.errors import UserError, unknown
from tensloradist.identity import resolve_all
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.names import MOST
from tensloradist.plugins import load_plugins
from tensloradist.results.schema import Condition, Membership
from tensloradist.shipped import find_shipped
from tensloradist.spec import METHODS, REFERENCES, AdapterSpec, RunSpec, TaskSpec
from tensloradist.spectra import spectra_of
from tensloradist.tasks import task_named
from tensloradist.validation import PositiveInt, SpecModel, validate


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


Ranks = Annotated[list[PositiveInt], Field(min_length=1), BeforeValidator(_as_list)]


class Isoparameter(SpecModel):
    """The condition 'as many parameters as LoRA at these ranks'."""

    lora_rank: Ranks = Field(description="ranks of LoRA, each of which sets a budget and is a condition of its own")
    strategy: Literal["balanced", "uniform", "spectrum"] = Field(
        "balanced",
        description="balanced: small modes whole; uniform: all modes alike; spectrum: by the gradient's spectra",
    )
    tolerance: float = Field(0.02, gt=0, lt=1, description="largest deviation from the budget, as a fraction of it")
    pinned: dict[str, PositiveInt] = Field(default_factory=dict, description="mode -> rank that is not solved for")


class ConditionEntry(SpecModel):
    """One entry of `conditions`: isorank or isoparameter."""

    isorank: Ranks | None = Field(None, description="every mode has this rank; each rank is a condition of its own")
    isoparameter: Isoparameter | None = Field(None, description="as many parameters as LoRA; see its keys below")


class SweepFile(SpecModel):
    """A sweep file as it is written. The contents of its sections are checked as run specifications."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=MOST)] = Field(
        description="what commands and the results folder call the sweep"
    )
    description: str | None = Field(None, description="what it asks, for people")
    backbone: dict[str, Any] | list[dict[str, Any]] = Field(description="a run's backbone, or several; lists are axes")
    task: dict[str, Any] | list[dict[str, Any]] = Field(description="a run's task, or several; lists are axes")
    methods: list[str | dict[str, dict[str, Any] | None]] = Field(
        min_length=1, description="names, or name: {keys of a run's adapter}; grouping: all means all seven"
    )
    conditions: list[ConditionEntry] = Field(min_length=1, description="entries isorank or isoparameter")
    seeds: PositiveInt | Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)] = Field(
        3, description="how many (3: 0, 1, 2), or a list of them"
    )
    adapter: dict[str, Any] = Field(default_factory=dict, description="keys of a run's adapter, for all methods")
    optimizer: dict[str, Any] = Field(default_factory=dict, description="keys of a run's optimizer; lists are axes")
    precision: str | list[str] = Field("fp32", description="a run's precision; a list is an axis")
    protocol: str | list[str] = Field("sound", description="a run's protocol; a list is an axis")
    compute: dict[str, Any] = Field(default_factory=dict, description="keys of a run's compute; never an axis")
    plugins: list[str] = Field(default_factory=list, description="modules to import first, such as my_package.module")


@dataclass
class PlannedRun:
    """One run of the plan, with its place in the tables."""

    spec: RunSpec
    run_id: str
    row: str
    backbone: str
    task: str
    ranks: dict[str, int]
    adapter_parameters: int
    shape: AttentionShape
    conditions: list[Membership] = field(default_factory=list)

    @property
    def labels(self) -> tuple[str, str, str]:
        """Its row, backbone and task in the tables."""
        return self.row, self.backbone, self.task


@dataclass
class Sweep:
    """An expanded sweep: its conditions, and its runs in launch order (every cell's first seed comes first)."""

    name: str
    path: Path
    sha256: str
    conditions: tuple[Condition, ...]
    runs: list[PlannedRun]


def load_sweep(source: str) -> Sweep:
    """The expanded sweep of a file, or of a shipped sweep by its name.

    Raises:
        UserError: a mistake in the file, by field, or in the data and backbones that it names.
    """
    path = find_shipped("sweeps", source)
    data = expand_paths(read_sweep(path), path.absolute().parent)
    file = validate(SweepFile, data, str(path))
    load_plugins(file.plugins)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    conditions = tuple(_conditions(file, str(path)))
    _refuse_repeated((condition.name for condition in conditions), f"{path}: conditions")
    return Sweep(file.name, path, digest, conditions, _runs(file, conditions, str(path)))


def _refuse_repeated(names: Iterable[str], where: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"{where}: {name!r} is given {times} times; once is enough")


def _conditions(file: SweepFile, where: str) -> Iterator[Condition]:
    for index, entry in enumerate(file.conditions):
        if (entry.isorank is None) == (entry.isoparameter is None):
            raise UserError(f"{where}: conditions.{index}: must be either isorank: [ranks] or isoparameter: {{…}}")
        for rank in entry.isorank or []:
            yield Condition(name=f"isorank r={rank}", kind="isorank", rank=rank)
        if entry.isoparameter is not None:
            iso = entry.isoparameter
            suffix = "" if iso.strategy == "balanced" else f" {iso.strategy}"
            suffix += "".join(f" {mode}={rank}" for mode, rank in sorted(iso.pinned.items()))
            for rank in iso.lora_rank:
                yield Condition(
                    name=f"isoparameter r={rank}{suffix}",
                    kind="isoparameter",
                    rank=rank,
                    strategy=iso.strategy,
                    tolerance=iso.tolerance,
                    pinned=iso.pinned,
                )


def _methods(file: SweepFile, where: str) -> Iterator[tuple[str, Fields]]:
    """(row label, adapter fields) of every method variant."""
    for entry in file.methods:
        pairs = [(entry, {})] if isinstance(entry, str) else [(name, options or {}) for name, options in entry.items()]
        for method, options in pairs:
            if method not in METHODS:
                raise UserError(f"{where}: methods: {unknown('method', method, METHODS)}")
            options = dict(options)
            if method == "tenslora" and options.get("grouping", "all") in ("all", ["all"]):
                options["grouping"] = list(GROUPINGS)
            fields = {**({} if method in REFERENCES else file.adapter), **options}
            for name, reason in (("ranks", "come from the conditions"), ("method", "is the entry's own name")):
                if name in fields:
                    raise UserError(f"{where}: methods.{method}.{name}: {name} {reason}; remove it")
            varied = [*options, *(name for name in fields if name in file.adapter and is_axis(name, fields[name]))]
            for chosen in axes(fields, f"{where}: methods.{method}."):
                yield row_label(method, chosen, varied), {"method": method, **chosen}


def _runs(file: SweepFile, conditions: Sequence[Condition], where: str) -> list[PlannedRun]:
    seeds = list(range(file.seeds)) if isinstance(file.seeds, int) else file.seeds
    if len(set(seeds)) != len(seeds):
        raise UserError(f"{where}: seeds: {seeds} names one twice")
    cells: dict[str, PlannedRun] = {}
    bases = list(_bases(file, where))
    backbone_labels = part_labels({base.spec.backbone: base.backbone_axes for base in bases}, backbones.label)
    task_labels = part_labels({base.spec.task: base.task_axes for base in bases}, _task_label)
    labelled = [(base.row, backbone_labels[base.spec.backbone], task_labels[base.spec.task]) for base in bases]
    first: dict[tuple[tuple[str, str, str], str], RunSpec] = {}
    for (row, backbone, task), base in zip(labelled, resolve_all(base.spec for base in bases), strict=True):
        shape = backbones.shape_of(base.backbone, base.adapter.projections)
        for condition in conditions:
            try:
                adapter = adapter_for(base, condition, shape)
            except UserError as error:
                raise UserError(f"{where}: {row} under {condition.name}: {error}") from error
            spec = base.model_copy(update={"adapter": adapter})
            ranks, count = budget.resolve_ranks(adapter, shape), _count(spec, shape)
            new = PlannedRun(spec, spec.run_id, row, backbone, task, ranks, count, shape)
            cell = cells.setdefault(new.run_id, new)
            lora = budget.lora_budget(shape, condition.rank)
            member = Membership(condition=condition.name, budget=lora, residual=count / lora - 1)
            if new.labels != cell.labels or any(known.condition == member.condition for known in cell.conditions):
                labels = " and ".join(sorted({", ".join(cell.labels), ", ".join(new.labels)}))
                raise UserError(f"{where}: the same runs are asked for twice, as {labels}; remove one of them")
            _refuse_indistinct(first.setdefault((new.labels, condition.name), spec), new, condition, where)
            cell.conditions.append(member)
    runs = []
    for seed in seeds:
        for cell in cells.values():
            spec = cell.spec.model_copy(update={"seed": seed})
            runs.append(replace(cell, spec=spec, run_id=spec.run_id))
    return runs


def _task_label(task: TaskSpec) -> str:
    return task_named(task.name).label(task)


def _refuse_indistinct(first: RunSpec, run: PlannedRun, condition: Condition, where: str) -> None:
    """Runs of one cell may differ only in the optimiser's settings, which the analysis chooses between.

    Raises:
        UserError: names the field and both values.
    """
    for section in ("protocol", "precision", "backbone", "task", "adapter"):
        ours, theirs = getattr(first, section), getattr(run.spec, section)
        if ours == theirs:
            continue
        fields = list(type(ours).model_fields) if isinstance(ours, SpecModel) else []
        values = [(f"{section}.{f}", getattr(ours, f), getattr(theirs, f)) for f in fields] or [(section, ours, theirs)]
        name, one, other = next(each for each in values if each[1] != each[2])
        cell = ", ".join((*run.labels, condition.name))
        raise UserError(
            f"{where}: two different runs would stand in the cell {cell!r}: {name} is {one!r} and {other!r}, which "
            "their labels do not tell apart; leave one out, or plan it in a sweep of its own"
        )


def _count(spec: RunSpec, shape: AttentionShape) -> int:
    """The adapter's parameters; for `full`, the backbone's."""
    if spec.adapter.method == "full":
        return backbones.parameter_count(spec.backbone)
    return budget.count(spec.adapter, shape)


@dataclass(frozen=True)
class _Base:
    """A run without its condition's ranks and its seed."""

    row: str
    spec: RunSpec
    backbone_axes: tuple[str, ...]
    task_axes: tuple[str, ...]


def _bases(file: SweepFile, where: str) -> Iterator[_Base]:
    base = {"compute": file.compute, "plugins": file.plugins}
    ways = {"precision": file.precision, "protocol": file.protocol}
    for backbone, backbone_axes in sections(file.backbone, f"{where}: backbone."):
        for task, task_axes in sections(file.task, f"{where}: task."):
            for row, adapter in _methods(file, where):
                for optimizer in axes(file.optimizer, f"{where}: optimizer."):
                    for chosen in axes(ways, f"{where}: "):
                        data = {
                            **base,
                            "backbone": backbone,
                            "task": task,
                            "adapter": adapter,
                            "optimizer": optimizer,
                            **chosen,
                        }
                        varied = [f"{k}={chosen[k]}" for k in chosen if isinstance(getattr(file, k), list)]
                        spec = validate(RunSpec, data, where)
                        varied += _multipliers(file.optimizer, spec)
                        yield _Base(" ".join([row, *varied]), spec, backbone_axes, task_axes)


def _multipliers(section: Fields, spec: RunSpec) -> list[str]:
    """'core×8' for an axis of `lr_multipliers`, which makes a row of its own, while the learning rate is tuned."""
    axis = section.get("lr_multipliers")
    names = [name for name, value in axis.items() if isinstance(value, list)] if isinstance(axis, dict) else []
    return [f"{name}×{spec.optimizer.lr_multipliers[name]:g}" for name in names]


def adapter_for(base: RunSpec, condition: Condition, shape: AttentionShape) -> AdapterSpec:
    """The run's adapter with the ranks of the condition; the strategy `spectrum` reads the data to find them."""
    adapter = base.adapter
    if condition.kind == "isorank":
        return budget.isorank(adapter, condition.rank, shape)
    one_rank = budget.has_one_rank(adapter)
    lora, tolerance = budget.lora_budget(shape, condition.rank), condition.tolerance or 0.02
    strategy, pinned = condition.strategy or "balanced", {} if one_rank else condition.pinned
    if strategy == "spectrum" and not one_rank:
        return by_spectrum(adapter, lora, shape, spectra_of(base), tolerance, pinned)
    # With one rank for all modes there is nothing to allocate, and all strategies are the same.
    return budget.isoparameter(adapter, lora, shape, "balanced" if one_rank else strategy, tolerance, pinned)
