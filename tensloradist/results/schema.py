"""The schema of `result.json` and of a sweep's manifest: what training writes and the analysis reads. Imports no torch.

Files are validated when written and when read; a file of another `schema_version` is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticSerializationError

from tensloradist.names import encodable
from tensloradist.spec import RunSpec

RESULT_SCHEMA_VERSION: Literal[1] = 1
MANIFEST_SCHEMA_VERSION: Literal[1] = 1


UnixSeconds = Annotated[float, Field(ge=0, lt=253402300800)]  # until the year 9999, what datetime can show


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def model_dump_json(self, **options: Any) -> str:
        """The record as JSON. Paths in messages that are not UTF-8 are escaped, so that the record is still written."""
        try:
            return super().model_dump_json(**options)
        except PydanticSerializationError:
            return type(self).model_validate(_encodable(self.model_dump())).model_dump_json(**options)


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_encodable(key): _encodable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(part) for part in value]
    return encodable(value) if isinstance(value, str) else value


class Metrics(Record):
    """Scores in the metric's own unit (accuracy, F1 and correlations in 0..1, not percent). null: not defined (NaN)."""

    primary: str = Field(description="name of the metric that is the score, e.g. accuracy")
    validation: dict[str, float | None] = Field(description="at the last epoch")
    test: dict[str, float | None] = Field(description="at the last epoch")
    test_at_best_validation: dict[str, float | None]
    best_epoch: int | None = Field(description="1-based epoch that was best on validation (official: on test)")
    score: float | None = Field(
        description="the protocol's score: sound, test at the last epoch; official, best on test"
    )
    validation_score: float | None = Field(description="primary metric on validation at the last epoch")


class Throughput(Record):
    """The median update's speed over all processes. No gradients of frozen weights count as operations.

    null: not defined (tokens of images), unknown (the peak of a CPU), or not measured (communication of one process).
    """

    tokens_per_second: float | None = Field(description="without padding")
    flops_per_step: int | None = Field(description="floating-point operations of an update, forward and backward")
    flops_per_second: float | None
    peak_flops_per_second: float | None = Field(description="of all processes' devices, from the makers' data sheets")
    model_flops_utilization: float | None = Field(description="flops_per_second over the peak, 0..1")
    communication_share: float | None = Field(description="of the first process's third update, 0..1, overlap included")


class Times(Record):
    """Seconds of wall clock; step_seconds is the median over training steps."""

    total_seconds: float
    load_seconds: float
    train_seconds: float
    evaluate_seconds: float
    step_seconds: float | None
    samples_per_second: float | None
    steps: int
    data_wait_share: float | None = Field(
        None,
        description="of all training steps' time, 0..1, in which the device had to wait for its batch; null in results "
        "from before it was recorded",
    )
    throughput: Throughput | None = Field(None, description="null in results from before it was recorded")


class PeakMemory(Record):
    """Bytes. host: resident set (VmHWM) of the process; device: CUDA allocations, null without a GPU.

    Of the first process; `by_process`: of all, where there are several.
    """

    host_bytes: int | None
    device_bytes: int | None
    host_bytes_by_process: tuple[int, ...] = ()
    device_bytes_by_process: tuple[int, ...] = ()


class Fingerprints(Record):
    """What must be equal between runs that are paired by seed."""

    data: str
    split: str
    data_order: str = Field(description="hash of the sample order of the first epoch")
    head: str = Field(description="hash of the classification head's initial weights")
    backbone: str = Field(description="hash of the backbone's weights at the start")


class FrozenBackbone(Record):
    """Proof that training left the backbone unchanged: a hash of its weights in the run's precision, before and after.

    At the end, checksums of all bits are compared with those of the hashed weights; a run that changed them fails.
    """

    start: str
    end: str


class Result(Record):
    """`result.json`: one finished (or diverged) run, published once and for ever."""

    schema_version: Literal[1] = RESULT_SCHEMA_VERSION
    run_id: str
    state: Literal["finished", "diverged"]
    attempt: int
    metrics: Metrics
    adapter_parameters: int
    trainable_parameters: int
    times: Times
    peak_memory: PeakMemory
    fingerprints: Fingerprints
    frozen_backbone: FrozenBackbone | None = Field(
        None, description="null: method full trains it, a quantised one is converted, or from before it was recorded"
    )
    provenance: dict[str, Any] = Field(description="versions, hardware, commit, precision, threads, host, user, warm")


Cause = Literal[
    "configuration",
    "data_missing",
    "out_of_device_memory",
    "device_failure",
    "out_of_host_memory",
    "killed",
    "interrupted",
    "communication",
    "preempted",
    "time_limit",
    "node_failure",
    "cancelled",
    "disk_full",
    "bug",
]
GOES_ON: tuple[Cause, ...] = ("preempted", "time_limit", "node_failure", "interrupted", "cancelled")
"""Ends that are not the run's fault: it continues automatically, or with the next launch."""
TRIED_AGAIN = ("retry", "retry_smaller", "retry_larger")
"""Decisions on a failure after which the run is trained again automatically."""


class SlurmJob(Record):
    """The job that an attempt ran in."""

    job_id: str
    array_job_id: str | None
    array_task_id: str | None
    restart_count: int
    partition: str | None
    node_list: str | None
    limits: dict[str, str] = Field(default_factory=dict, description="cpus, memory (MB) and minutes that it was given")


class ResumedFrom(Record):
    """The checkpoint that an attempt resumes from."""

    attempt: int
    step: int = Field(description="updates done")
    checkpoint: str = Field(description="its folder, relative to the run's")


class AttemptRecord(Record):
    """`attempts/NNNN/attempt.json`: where an attempt runs, written once at its start. Times are unix seconds."""

    schema_version: Literal[1] = 1
    run_id: str
    attempt: int
    started: UnixSeconds
    host: str
    user: str
    pid: int
    slurm: SlurmJob | None
    compute: dict[str, Any] = Field(description="the compute section as it was used")
    resumed_from: ResumedFrom | None


class AttemptEnd(Record):
    """`attempts/NNNN/end.json`: how an attempt ended, written once; absent if its process was killed."""

    schema_version: Literal[1] = 1
    run_id: str
    attempt: int
    ended: UnixSeconds
    state: Literal["finished", "diverged", "duplicate", "failed"]
    cause: Cause | None = None
    steps: int | None = Field(None, description="updates done, where that is known")


class Failure(Record):
    """`attempts/NNNN/failure.json`: an attempt that ended without a result."""

    schema_version: Literal[1] = 1
    run_id: str
    attempt: int
    cause: Cause
    message: str = Field(description="one line")
    traceback: str | None = None
    kept_step: int | None = Field(None, description="updates done that a checkpoint keeps; null: not looked up")
    evaluation_batch: int | None = Field(None, description="examples in the evaluation pass that ran out of memory")


class GrowthRecord(Record):
    """How many times the profile's memory and time a run needs; memory null: the site's default, not multiplied."""

    memory: int | None = 1
    time: int = 1


class DecisionRecord(Record):
    """`attempts/NNNN/decision.json`: what follows from an attempt's failure, as the launch's policy decided."""

    cause: str
    action: Literal["retry", "retry_smaller", "retry_larger", "stop"]
    reason: str
    micro_batch: int | None = None
    evaluation_batch: int | None = None
    growth: GrowthRecord | None = None


class RankFailure(Record):
    """`attempts/NNNN/ranks/RANK.json`: why a process of a run, other than the first, ended."""

    schema_version: Literal[1] = 1
    rank: int
    host: str
    pid: int
    cause: Cause
    message: str = Field(description="one line")
    traceback: str | None = None
    evaluation_batch: int | None = Field(None, description="as in Failure")


class Condition(Record):
    """One condition of the tables: isorank at a rank, or isoparameter to LoRA at a rank."""

    name: str = Field(description="'isorank r=4', 'isoparameter r=4'")
    kind: Literal["isorank", "isoparameter"]
    rank: int = Field(description="isorank: the rank of every mode; isoparameter: the LoRA baseline's rank")
    strategy: str | None = Field(None, description="isoparameter: how the solver chose the mode ranks")
    tolerance: float | None = Field(None, description="isoparameter: largest |residual| accepted")
    pinned: dict[str, int] = Field(default_factory=dict, description="isoparameter: modes that were not solved for")


class Membership(Record):
    """One run's place in one condition."""

    condition: str = Field(description="Condition.name")
    budget: int = Field(description="adapter parameters of the LoRA baseline")
    residual: float = Field(description="adapter_parameters / budget - 1")


_MOST_VALIDATED = 10_000
_validated: dict[str, RunSpec] = {}


def _once_for_all_seeds(value: Any, validate: ValidatorFunctionWrapHandler) -> RunSpec:
    """Validate specifications that differ only in the seed once: a manifest has thousands of them."""
    seed = value.get("seed") if isinstance(value, dict) else None
    if type(seed) is not int or seed < 0:
        return validate(value)
    key = repr({**value, "seed": 0})
    if key not in _validated:
        if len(_validated) >= _MOST_VALIDATED:
            _validated.clear()
        _validated[key] = validate(value)
    return _validated[key].model_copy(update={"seed": seed})


class ManifestRun(Record):
    """One planned run, in launch order (seed-major)."""

    run_id: str
    spec: Annotated[RunSpec, WrapValidator(_once_for_all_seeds)] = Field(description="resolved")
    row: str = Field(description="the tables' row: 'lora', 'qkv_depth tucker', with the method's own options if any")
    backbone: str = Field(description="short label of the backbone for tables, e.g. deit_tiny")
    task: str = Field(description="short label of the task for tables, e.g. dtd10")
    ranks: dict[str, int] = Field(description="resolved rank of each mode")
    adapter_parameters: int
    conditions: tuple[Membership, ...] = Field(min_length=1)


class Manifest(Record):
    """A sweep as it was launched: `results/sweeps/<name>/<digest>.json`, immutable; `latest` names the newest."""

    schema_version: Literal[1] = MANIFEST_SCHEMA_VERSION
    name: str
    sweep_sha256: str = Field(description="of the sweep file's text")
    conditions: tuple[Condition, ...]
    runs: tuple[ManifestRun, ...]

    @property
    def plugins(self) -> tuple[str, ...]:
        """The modules that its runs name."""
        return tuple(sorted({plugin for run in self.runs for plugin in run.spec.plugins}))
