"""What a task is: three disjoint parts of a data set, as model inputs, with metrics.

Tasks are a plain dictionary that plugins may write into. A task is loaded for a backbone, whose preprocessing it
follows, and under a protocol, which decides the split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes, why_changed
from tensloradist.metrics import Labels, MetricFunction, lower_is_better, scorer
from tensloradist.tasks import registry
from tensloradist.tasks.registry import Declaration, Kind

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.spec import BackboneSpec, TaskSpec

Finish = Callable[[dict[str, "Tensor"]], dict[str, "Tensor"]]


@dataclass(frozen=True)
class HostBatch:
    """Examples as they were read, on the CPU.

    Attributes:
        tensors: those to copy to the device.
        finish: computes the model's inputs from these tensors on their device; None if they are the inputs. It only
            launches work: on an accelerator it must not read a value.
    """

    tensors: dict[str, Tensor]
    finish: Finish | None = None

    def inputs(self, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The model's inputs: from the batch's own tensors, or from these copies of them on a device."""
        tensors = self.tensors if tensors is None else tensors
        return tensors if self.finish is None else self.finish(tensors)


class SplitData(ABC):
    """One part of a data set, in a fixed order.

    Attributes:
        ids: a name for each example, the same wherever the data lies.
        labels: (n,) int64, or float32 for regression.
        lengths: (n,) tokens of each example, for batches of similar length; None if all are equal.
        terms: (n,) how many terms the loss of each example is the sum of (answer tokens); None: one each. A batch's
            loss is the mean over its terms.
        several_at_once: whether several threads may call `read` at once; else one calls it, in the order of use.
    """

    several_at_once: ClassVar[bool] = False
    ids: list[str]
    labels: Labels
    lengths: npt.NDArray[np.int64] | None = None
    terms: npt.NDArray[np.int64] | None = None

    def terms_of(self, indices: npt.NDArray[np.int64] | None = None) -> int:
        """The terms of these examples' losses together, of all of them without indices."""
        if self.terms is None:
            return len(self) if indices is None else len(indices)
        return int(self.terms.sum() if indices is None else self.terms[indices].sum())

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        """Model inputs of these examples, without labels.

        Args:
            augment: (seed, epoch) in training, which with an example's index decides its augmentation; else None.
        """

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None) -> HostBatch:
        """The same examples, perhaps with work left that is better done on the device."""
        return HostBatch(self.batch(indices, augment))


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """A task with its data in memory (or mapped), ready for one backbone.

    Attributes:
        num_labels: outputs of the head; 0 (LANGUAGE_MODEL) for a language model, whose outputs are answers' scores.
        primary_metric: the metric that is the score; it must be better when it is higher.
        metric_names: all that `metrics` computes, the primary one first; their directions are those of `METRICS`
            (tensloradist.metrics).
        classes: what the labels 0, 1, … stand for, if the data or the task defines it.
        origin: where the parts came from, such as "60/20/20 % of photographs/"; may be empty.
    """

    name: str
    kind: Kind
    num_labels: int
    regression: bool
    train: SplitData
    validation: SplitData
    test: SplitData
    primary_metric: str
    metric_names: tuple[str, ...]
    metrics: MetricFunction
    data_fingerprint: str
    classes: tuple[str, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            if not len(getattr(self, part)):
                raise UserError(f"task {self.name}: the {part} part of its data is empty")
        if lower_is_better(self.primary_metric):
            raise UserError(
                f"task {self.name}: its score is {self.primary_metric}, which is better when it is lower, but the best "
                "epoch, setting and method are those with the highest score; put another metric first, such as its "
                "negative"
            )

    @property
    def lower_is_better(self) -> tuple[str, ...]:
        """The metrics whose best value is the lowest."""
        return tuple(name for name in self.metric_names if lower_is_better(name))

    @property
    def split_fingerprint(self) -> str:
        """Hash of which examples are in which part."""
        parts = ("train", "validation", "test")
        return hash_bytes(*("\n".join(sorted(getattr(self, part).ids)) for part in parts))


def describe_parts(loaded: LoadedTask) -> str:
    """How many examples each part has, and where they came from: one line."""
    sizes = (len(loaded.train), len(loaded.validation), len(loaded.test))
    return parts_line(loaded.name, sizes, loaded.validation.ids == loaded.test.ids, loaded.origin)


def parts_line(name: str, sizes: Sequence[int], same: bool, origin: str) -> str:
    """The line of `describe_parts`.

    Args:
        sizes: of the training, validation and test parts.
        same: whether validation and test are one part, as under the official protocol.
    """
    train, validation, test = sizes
    held = (
        f"{test:,} test examples, also for validation" if same else f"{validation:,} validation, {test:,} test examples"
    )
    return f"{name}: {train:,} training, {held}" + (f" ({origin})" if origin else "")


@dataclass(frozen=True, kw_only=True)
class Task(Declaration):
    """An entry of the registry: a declaration, and the functions that read the task's data.

    Attributes:
        load: the data, for a spec, a backbone and a protocol. Raises UserError for anything wrong with the data.
        fingerprint: hash of the local files, or name@commit of the Hub.
        label: a short name for tables.
        num_labels: outputs of the head, or 0 for a language model; cheap, for planning.
        fetch: makes the data available offline and fills the cache; returns what was done, one line each.
        missing: what `load` would have to download, one line each; nothing for local data.
        parts: what `describe_parts` would return, for a spec and a protocol, without loading; None if that would need
            the data itself.
        example: writes tiny data, and a tiny backbone with its preprocessing files, into an empty folder, and returns
            their specs. The conformance tests use it for every entry, a plugin's included, without a network.
    """

    load: Callable[[TaskSpec, BackboneSpec, str], LoadedTask]
    fingerprint: Callable[[TaskSpec], str]
    label: Callable[[TaskSpec], str]
    num_labels: Callable[[TaskSpec], int]
    example: Callable[[Path], tuple[TaskSpec, BackboneSpec]]
    fetch: Callable[[TaskSpec, BackboneSpec, str], list[str]]
    missing: Callable[[TaskSpec], list[str]] = lambda task: []
    parts: Callable[[TaskSpec, str], str | None] = lambda task, protocol: None


TASKS: dict[str, Task] = registry.TASKS


def stratified_parts(labels: Labels, fractions: Sequence[float], seed: int) -> list[npt.NDArray[np.int64]]:
    """Disjoint index sets in these proportions within every class (or over all, for regression), each in file order.

    Args:
        fractions: of each part; they sum to 1.
    """
    random = np.random.default_rng([seed, 77])
    groups = [np.arange(len(labels))]
    if np.issubdtype(labels.dtype, np.integer):
        groups = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in fractions]
    for group in groups:
        bounds = np.round(np.cumsum([0.0, *fractions]) * len(group)).astype(int)
        shuffled = random.permutation(group)
        for part, low, high in zip(parts, bounds[:-1], bounds[1:], strict=True):
            part.append(shuffled[low:high])
    return [np.sort(np.concatenate(part)) for part in parts]


def require_fingerprint(task: TaskSpec, found: str) -> None:
    """Raise UserError if the spec has a fingerprint that is not the data's."""
    if task.fingerprint is not None and task.fingerprint != found:
        raise UserError(
            f"task.data: {task.data or task.name} {why_changed(task.fingerprint, found)}: its fingerprint is {found}, "
            f"not {task.fingerprint}"
        )


def drawn(task: TaskSpec, number: int) -> list[str]:
    """A note on `limited`, for a training part of this many examples; none if all are used."""
    return [] if task.train_examples is None else [f"{task.train_examples:,} of {number:,} drawn to train"]


def limited(train: npt.NDArray[np.int64], task: TaskSpec) -> npt.NDArray[np.int64]:
    """`train_examples` of the training part: a draw that is the same for every seed."""
    if task.train_examples is None:
        return train
    if task.train_examples > len(train):
        raise UserError(
            f"task.train_examples: {task.train_examples} exceeds the {len(train)} training examples of "
            f"{task.data or task.name}"
        )
    random = np.random.default_rng([task.split_seed, 78])
    return np.sort(random.choice(train, task.train_examples, replace=False))


accuracy = scorer("accuracy")
