"""What one run is: frozen pydantic models, read from YAML with dotted overrides, and identified by content.

`RunSpec` holds everything that determines a result, and `compute`, which does not. Its `run_id` is a hash of the
canonical JSON of the former, with paths replaced by fingerprints of what they lead to (`identity.resolve` fills
those in). This module imports no torch: planning and analysis read specs without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from tensloradist.compute import ComputeSpec
from tensloradist.errors import UserError, unknown
from tensloradist.factorizations import DEFAULT_FACTORIZATION, FACTORIZATIONS, Factorization, factorization_named
from tensloradist.presets.members import FIXED_BY_PRESET, PRESETS, Preset
from tensloradist.validation import PositiveInt, SpecModel, is_module_name

if TYPE_CHECKING:
    from tensloradist.tasks.registry import Declaration

SPEC_VERSION: Literal[1] = 1
Projection = Literal["query", "key", "value", "attention_output", "fc1", "fc2"]
Grouping = Literal["att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth"]
Initialization = Literal["orthogonal", "kaiming_uniform", "normal", "original"]
REFERENCES = ("full", "head")  # the upper and lower references of every table: no adapter, other trained weights
METHODS = ("lora", "tenslora", *PRESETS, *REFERENCES)

# Dotted field -> the value that reproduces the behaviour from before the field existed. A field listed here is left
# out of the canonical JSON while it has that value, so that the ids of older results stay valid.
ADDED_LATER: dict[str, Any] = {
    "adapter.fused": False,
    "adapter.mode_order": None,
    "adapter.head_side": "own",
    "adapter.alpha": None,
    "adapter.rslora": False,
    "adapter.dropout_on": "input",
    "backbone.random_init": False,
    "backbone.quantization": None,
}

# Not part of a run's identity: `compute` does not change the result, `plugins` is code (provenance), and a place (a
# path, a Hub name) is replaced by the fingerprint of its content.
NOT_IDENTITY = (
    "compute",
    "plugins",
    "backbone.name",
    "backbone.weights",
    "backbone.revision",
    "task.data",
    "task.revision",
)


def _in_unicode(path: str) -> str:
    """Refuse a name that is not UTF-8, since specifications are stored as JSON in UTF-8."""
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        raise ValueError("not a name in UTF-8, which a stored specification needs; rename it, or link to it")
    return path


PathOrName = Annotated[str, AfterValidator(_in_unicode)]


class BackboneSpec(SpecModel):
    """A pretrained, frozen model. `name` is a Hub name, a local folder, or for timm the architecture's name."""

    source: str = Field("transformers", description="transformers, timm, digits_vit, or a source from a plugin")
    name: PathOrName = Field(description="Hub name or local folder (transformers); architecture or Hub name (timm)")
    weights: PathOrName | None = Field(None, description="timm: a local safetensors file with the weights")
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch)")
    random_init: bool = Field(False, description="the architecture with random weights; needs only its configuration")
    quantization: Literal["int8", "nf4"] | None = Field(
        None, description="frozen linear layers in 8 or 4 bits (bitsandbytes); null: none"
    )
    fingerprint: str | None = Field(None, description="hash of the local files, or name@commit; filled in by resolve")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.random_init and self.weights is not None:
            raise ValueError(f"weights: {self.weights} with random_init: true, which needs none; leave one of them out")
        return self


class TaskSpec(SpecModel):
    """The data set that the backbone is adapted to."""

    name: str = Field(description="a registered task, or one from a plugin")
    data: PathOrName | None = Field(
        None, description="a local folder or file; a Hub name; null: the task's own default"
    )
    revision: str | None = Field(None, description="Hub revision of the data set")
    fingerprint: str | None = Field(None, description="hash of the data; filled in by resolve")
    split_seed: int = Field(0, ge=0, description="draws the split; the same for every training seed")
    train_examples: PositiveInt | None = Field(None, description="use this many training examples (a fixed draw)")
    max_length: PositiveInt | None = Field(
        None, description="text: tokens kept per example; null: the backbone's limit"
    )
    augmentation: Literal["none", "flip", "flip_jitter"] = Field("none", description="images: training augmentation")


class AdapterSpec(SpecModel):
    """A member of the adapter family: which updates are stacked into one tensor, and how that is factorised.

    `method` is lora, tenslora, a published neighbour from `presets.PRESETS` (which sets the rest), or a reference:
    `full` trains all weights of the backbone, `head` the classification head alone. `ranks` is one integer for every
    mode or a mapping mode -> rank; a tensor train's bonds are named by the mode on their left. The update is
    multiplied by `scale`, or by alpha / r (`rslora`: alpha / √r) with r the rank of the input. In a file, `targets` may
    replace `projections`; `targets: original` is everything that a preset's own authors adapt.
    Source of the family: TensLoRA (arXiv 2509.19391).
    """

    method: str = Field("tenslora", description="lora, tenslora, a preset, full or head")
    grouping: Grouping | None = Field(None, description="the stacked modes; null for lora")
    factorization: str | None = Field(None, description="tucker, cp, tt, or one from a plugin; null for lora")
    ranks: PositiveInt | dict[str, PositiveInt] = Field(4, description="one rank, or mode -> rank")
    projections: tuple[Projection, ...] = Field(
        ("query", "key", "value"), min_length=1, description="the adapted projections of every layer"
    )
    head_layout: Literal["aligned", "official"] = Field(
        "aligned", description="aligned: the heads modes are the backbone's heads; official: as in the official code"
    )
    initialization: Initialization | None = Field(
        None, description="null: a preset's original, else the factorization's own default"
    )
    sibling_draws: Literal["independent", "identical"] = Field(
        "independent", description="identical: all tensors start equal, as in the official code (protocol official)"
    )
    scale: float = Field(1.0, description="what the update is multiplied by, unless alpha is given")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="on the adapter's input, or as dropout_on says")
    fused: bool = Field(False, description="one mode for projection and depth together (groupings with qkv_depth)")
    mode_order: tuple[str, ...] | None = Field(None, description="tt: the order of its cores; null: input … output")
    head_side: Literal["own", "output", "input"] = Field(
        "own", description="the features that the heads modes index; own: output, and input of attention_output"
    )
    alpha: float | None = Field(None, description="the multiplier is alpha / r instead of scale")
    rslora: bool = Field(False, description="alpha / √r instead of alpha / r")
    dropout_on: Literal["input", "hidden"] = Field("input", description="hidden: on the r features between A and B")

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults_of_method(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        method = data.get("method", "tenslora")
        preset = PRESETS.get(method) if isinstance(method, str) else None
        _replace_targets(data, preset)
        if preset is not None:
            given = {name: value for name, value in data.items() if value is not None}
            defaults = dict(preset.fields)
            if "scale" in given and "alpha" not in given:  # given instead of the preset's own α
                defaults.pop("alpha", None)
            return {**defaults, **given}
        if method in REFERENCES:
            return data
        if data.get("factorization") is None:
            data["factorization"] = "lora" if method == "lora" else DEFAULT_FACTORIZATION
        if data.get("initialization") is None and isinstance(data["factorization"], str):
            data["initialization"] = _factorization(data["factorization"]).initialization
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(f"method: {unknown('method', self.method, METHODS)}")
        if len(set(self.projections)) != len(self.projections):
            raise ValueError(f"projections: {list(self.projections)} names one twice")
        if self.alpha is not None and self.scale != 1.0:
            raise ValueError(f"scale: {self.scale} and alpha: {self.alpha} are both given; give only one of them")
        if self.rslora and self.alpha is None:
            raise ValueError("rslora: alpha / √r needs an alpha")
        # A stored specification may name a factorisation of a plugin that is not loaded.
        known = _factorization(self.factorization) if self.factorization in FACTORIZATIONS else None
        if self.method in REFERENCES:
            self._check_reference()
        elif self.method in PRESETS:
            self._check_preset(PRESETS[self.method])
        elif self.method == "lora":
            if self.grouping is not None or known is None or known.stacks:
                name, value = ("grouping", self.grouping) if self.grouping else ("factorization", self.factorization)
                raise ValueError(
                    f"{name}: {value!r}: lora adapts every projection of every layer on its own: it takes no grouping "
                    "and no factorization (use method tenslora)"
                )
        elif self.grouping is None:
            raise ValueError(
                "grouping: method tenslora needs one of att, qkv, depth, att_qkv, att_depth, qkv_depth, att_qkv_depth"
            )
        elif known is not None and not known.stacks:
            raise ValueError(f"factorization: {self.factorization!r} is for the method lora, which takes no grouping")
        if self.mode_order is not None and known is not None and not known.ordered:
            raise ValueError(f"mode_order: the order of modes does not matter in {self.factorization}; leave it out")
        if self.initialization == "original" and self.method not in PRESETS:
            raise ValueError(f"initialization: {self.method} has no 'original'; presets have")
        return self

    def _check_preset(self, preset: Preset) -> None:
        for name in FIXED_BY_PRESET:
            wanted = preset.fields.get(name, type(self).model_fields[name].default)
            if getattr(self, name) != wanted:
                raise ValueError(
                    f"{name}: {self.method} means {wanted!r}, not {getattr(self, name)!r} (method tenslora takes it)"
                )
        if self.initialization == "original" and not preset.initial:
            raise ValueError(
                f"initialization: no 'original' one of {self.method} is known; leave it out, or use orthogonal, "
                "kaiming_uniform or normal"
            )
        for projection in self.projections:
            if projection not in preset.offers:
                raise ValueError(f"projections: {self.method} has no {projection}; it has {', '.join(preset.offers)}")

    def _check_reference(self) -> None:
        for name, field in type(self).model_fields.items():
            if name != "method" and getattr(self, name) != field.default:
                raise ValueError(f"{name}: method {self.method} has no adapter, so it takes no {name}")

    def multiplier(self, ranks: Mapping[str, int]) -> float:
        """What the update is multiplied by: `scale`, or alpha / r or alpha / √r with r the rank of the input."""
        if self.alpha is None:
            return self.scale
        rank = ranks.get("input", next(iter(ranks.values())))
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


def _factorization(name: str) -> Factorization:
    try:
        return factorization_named(name)
    except UserError as error:
        raise ValueError(f"factorization: {error} Name the plugin of another one in `plugins`.") from None


def _replace_targets(data: dict[str, Any], preset: Preset | None) -> None:
    """Replace `targets`, if given, by `projections`."""
    if "targets" not in data:
        return
    targets = data.pop("targets")
    if data.get("projections") is not None:
        raise ValueError("targets: targets and projections say the same; give one of them")
    if targets == "original":
        if preset is None:
            raise ValueError(f"targets: only presets have 'original' ones, not {data.get('method', 'tenslora')!r}")
        targets = preset.targets
    data["projections"] = targets


class OptimizerSpec(SpecModel):
    """AdamW and its schedule. The defaults are the official TensLoRA scripts' values."""

    epochs: PositiveInt = Field(10, description="passes over the training part")
    batch_size: PositiveInt = Field(64, description="examples per update, over all processes and accumulation steps")
    learning_rate: float = Field(5e-4, gt=0, description="the largest of the schedule")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, decoupled from the gradient")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate goes from its largest value to min_learning_rate"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="fraction of all updates")
    min_learning_rate: float = Field(1e-6, ge=0, description="where cosine and linear end")
    gradient_clipping: float | None = Field(None, gt=0, description="largest gradient norm; null: none")
    lr_multipliers: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="parameter group (core, factors, a mode's name, head) -> multiplier"
    )


class RunSpec(SpecModel):
    """One run: a backbone, a task, an adapter, an optimiser, a precision, a seed and a protocol."""

    version: Literal[1] = Field(SPEC_VERSION, description="of the specification's form")
    backbone: BackboneSpec = Field(description="the pretrained model; see its keys below")
    task: TaskSpec = Field(description="the data; see its keys below")
    adapter: AdapterSpec = Field(description="what is trained; see its keys below")
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="see its keys below")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of training; bf16 is for GPUs")
    seed: int = Field(0, ge=0, strict=True, description="draws the order of the data, the head and the adapter")
    protocol: Literal["sound", "official"] = Field(
        "sound",
        description="sound: the last epoch's test score; official: as the official TensLoRA scripts, faults included",
    )
    compute: ComputeSpec = Field(default_factory=ComputeSpec, description="how it is executed; see its keys below")
    plugins: tuple[str, ...] = Field((), description="modules to import first, such as my_package.module")

    @model_validator(mode="before")
    @classmethod
    def _official_defaults(cls, data: Any) -> Any:
        """Under the official protocol, what the official scripts set for the adapter and the task is the default."""
        if not isinstance(data, dict) or data.get("protocol") != "official":
            return data
        adapter, task = data.get("adapter"), data.get("task")
        if isinstance(adapter, dict) and adapter.get("method", "tenslora") == "tenslora":
            data = {**data, "adapter": {"head_layout": "official", "sibling_draws": "identical", **adapter}}
        name = task.get("name") if isinstance(task, dict) else None
        declared = _declared(name) if isinstance(name, str) else None
        for section, settings in declared.official.items() if declared is not None else ():
            given = data.get(section, {})
            if isinstance(given, dict):
                data = {**data, section: {**settings, **given}}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.protocol == "sound" and self.adapter.sibling_draws == "identical":
            raise ValueError(
                "adapter.sibling_draws: 'identical' repeats a fault of the official code and belongs to "
                "protocol official; set protocol: official or sibling_draws: independent"
            )
        if self.adapter.method == "head":
            declared = _declared(self.task.name)
            if declared is not None and not declared.has_head:
                raise ValueError(f"adapter.method: head trains a head, and task {self.task.name} has none")
        if self.compute.processes > self.optimizer.batch_size:
            raise ValueError(
                f"optimizer.batch_size: {self.optimizer.batch_size} gives each of compute.processes "
                f"({self.compute.processes}) less than one example per update; use fewer processes or a larger batch"
            )
        if self.compute.strategy == "zero3" and self.backbone.quantization is not None:
            raise ValueError(
                f"compute.strategy: zero3 cannot shard weights quantised by backbone.quantization "
                f"{self.backbone.quantization}; use another strategy, or leave quantization out"
            )
        if self.protocol == "official" and self.adapter.dropout > 0 and self.adapter.method not in PRESETS:
            raise ValueError(
                f"adapter.dropout: {self.adapter.dropout} under protocol official acts on entries of the "
                "dense update, which is never built here; use 0, or protocol sound"
            )
        return self

    @field_validator("plugins")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not is_module_name(name):
                raise ValueError(f"plugins: {name!r} is not a module name such as my_package.module")
        return value

    def canonical_json(self) -> str:
        """The JSON that identifies the run: sorted keys, no paths, no compute.

        Raises:
            UserError: the backbone or the task has no fingerprint yet (`identity.resolve` fills it in).
        """
        for part in ("backbone", "task"):
            if getattr(self, part).fingerprint is None:
                raise UserError(
                    f"{part}.fingerprint is empty: a run is identified by content, so resolve the spec first"
                )
        return json.dumps(identifying(self.model_dump(mode="json")), sort_keys=True, separators=(",", ":"))

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of `canonical_json()`."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]


def _declared(task: str) -> Declaration | None:
    """The task's entry in the registry; None for one from a plugin that is not loaded."""
    from tensloradist.tasks.registry import TASKS  # here, since the entries import numpy

    return TASKS.get(task)


def identifying(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved specification's plain values that identifies the run.

    A manifest's specification from before a field existed gives the same as a current one with the value that
    reproduces the behaviour of that time.
    """
    kept = {name: dict(part) if isinstance(part, Mapping) else part for name, part in data.items()}
    for path in NOT_IDENTITY:
        _drop(kept, path)
    for path, old_value in ADDED_LATER.items():
        _drop(kept, path, only_if=old_value)
    return kept


_ANY = object()


def _drop(data: dict[str, Any], path: str, only_if: Any = _ANY) -> None:
    *parents, last = path.split(".")
    for key in parents:
        data = data[key]
    if only_if is _ANY or data.get(last) == only_if:
        data.pop(last, None)
