"""Cluster profiles: what a site's jobs ask for, as validated YAML. Jobs of several option sets share a queue of runs.

A profile's own fields apply to every option set, which may override them. A profile is given by its path, or by its
name if it is a shipped one (`slurm/profiles/`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from launch.records.policy import Growth
from launch.slurm.times import Minutes, MinutesOrPart, Seconds, SecondsOrPart
from tensloradist.errors import UserError, unknown
from tensloradist.shipped import find_shipped, shipped_names
from tensloradist.validation import PositiveInt, SpecModel, validate
from tensloradist.wording import counted
from tensloradist.yaml_reader import read_yaml

SHIPPED = "slurm/profiles"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


# Options of sbatch that every submission sets, or for which the profile has a field. They are refused below `sbatch`,
# because the checks against the site, the jobs' record and the larger jobs read only the field.
_FIELDS = {
    "time": "time_minutes",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "mem": "memory_gb",
    "cpus-per-task": "cpus_per_worker",
    "gpus-per-node": "gpus_per_node",
    "signal": "signal_lead_seconds",
    "requeue": "requeue",
    "no-requeue": "requeue",
    "nodes": "processes_per_node, and the sweep's compute.processes",
    "ntasks-per-node": "processes_per_node",
    "array": "max_parallel and max_array_size",
}
_SAME = ("partition", "account", "qos", "constraint")  # fields that are written like sbatch's options
_OURS = ("job-name", "output", "error", "input", "open-mode", "wait", "test-only", "parsable", "quiet", "wrap")
SAID_ELSEWHERE = {option: f"this is the profile's field {field}" for option, field in _FIELDS.items()} | dict.fromkeys(
    _OURS, "every submission sets this itself; leave it out"
)


class Options(SpecModel):
    """What one job asks for, and how it works through the queue."""

    partition: str | None = Field(None, description="one, or several as in 'a,b'; null: the site's default")
    account: str | None = Field(None, description="what the jobs are charged to; null: the site's default")
    qos: str | None = Field(None, description="quality of service; null: the site's default")
    constraint: str | None = Field(None, description="features that a node must have, as to sbatch --constraint")
    gpus_per_node: int = Field(0, ge=0, strict=True, description="GPUs that a job asks for on each node")
    cpus_per_worker: PositiveInt = Field(1, description="CPU cores a worker, or a process of a multi-process run")
    memory_gb: float | None = Field(None, gt=0, description="of a node; null: the site's default")
    time_minutes: Minutes = Field(60, description="the job's time limit; 12:00:00 is twelve hours, as to sbatch --time")
    signal_lead_seconds: Seconds = Field(
        60, description="before the limit, Slurm signals the job: time for a checkpoint, and for requeueing"
    )
    max_array_size: PositiveInt = Field(1000, description="tasks an array; the site's own limit is asked, too")
    max_parallel: PositiveInt = Field(
        32, description="tasks of a launch that run at the same time, over all its arrays; at least one of each"
    )
    workers_per_node: PositiveInt | None = Field(
        None, description="workers a job; null: workers_per_gpu for each GPU, or one if there is no GPU"
    )
    workers_per_gpu: PositiveInt = Field(
        1, description="more than one suits small runs, but their times cannot be compared; see the profile shared_gpu"
    )
    processes_per_node: PositiveInt | None = Field(
        None, description="of a multi-process run; null: one a GPU, or all on one node if it has no GPUs"
    )
    runs_per_task: PositiveInt | None = Field(
        None, description="runs that a job trains; null: as many as fill target_minutes by recorded durations"
    )
    target_minutes: MinutesOrPart | None = Field(None, description="null: half the time limit")
    requeue: bool = Field(True, description="a job that was preempted, killed or out of time goes back to the queue")
    max_restarts: PositiveInt = Field(50, description="of one job, after which it stays down")
    setup: tuple[str, ...] = Field((), description="shell lines before the workers: module load, activate")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of the workers")
    container: str | None = Field(None, description="what python is run in: 'apptainer exec --nv image.sif'")
    stage: str | None = Field(None, description="node-local folder for a copy of data and backbone; may use $TMPDIR")
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict, description="further sbatch options")
    srun: tuple[str, ...] = Field((), description="further srun arguments")
    takeover_seconds: SecondsOrPart = Field(
        180.0,
        description="take over a run after this long without a heartbeat; heartbeats come six times as often",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.signal_lead_seconds >= 60 * self.time_minutes:
            raise ValueError(
                f"signal_lead_seconds: {self.signal_lead_seconds} is not less than the time limit of "
                f"{counted(self.time_minutes, 'minute')}"
            )
        if self.workers_per_gpu > 1 and not self.gpus_per_node:
            raise ValueError(f"workers_per_gpu: {self.workers_per_gpu}, but gpus_per_node is 0; use workers_per_node")
        for name in self.sbatch:
            option = name.replace("_", "-")
            if option in SAID_ELSEWHERE:
                raise ValueError(f"sbatch.{name}: {SAID_ELSEWHERE[option]}")
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"environment: {name!r} is not the name of a variable")
        return self

    @classmethod
    def recorded(cls, options: Mapping[str, Any]) -> Options:
        """The options of submitted jobs, as a profile would give them now.

        An option below `sbatch` for which there is a field now becomes that field's value if the field has none; it is
        left out if the two are written differently.

        Raises:
            SpecError: they are not valid for another reason.
        """
        sbatch = options.get("sbatch")
        if not isinstance(sbatch, Mapping):
            return cls.model_validate(options)
        kept = {name: value for name, value in sbatch.items() if name.replace("_", "-") not in SAID_ELSEWHERE}
        moved = {name: sbatch[name] for name in _SAME if name in sbatch and options.get(name) is None}
        return cls.model_validate({**options, **moved, "sbatch": kept})

    @property
    def workers(self) -> int:
        """Workers of a job that trains runs of one process."""
        return self.workers_per_node or max(1, self.gpus_per_node * self.workers_per_gpu)

    @property
    def sharing_gpu(self) -> int:
        """Workers that share a GPU, whichever fields say so; 1 without GPUs."""
        return math.ceil(self.workers / self.gpus_per_node) if self.gpus_per_node else 1

    def grown(self, growth: Growth) -> Options:
        """The same options with multiples of the memory and the time limit."""
        memory = self.memory_gb * (growth.memory or 1) if self.memory_gb is not None else None
        return self.model_copy(update={"memory_gb": memory, "time_minutes": self.time_minutes * growth.time})

    def layout(self, processes: int, nodes: int | None = None) -> tuple[int, int]:
        """(nodes, tasks a node) of a job that trains runs of `processes` processes.

        Args:
            nodes: as the run says; None: as the profile says.

        Raises:
            UserError: the processes do not divide evenly over nodes, or a node has fewer GPUs.
        """
        if processes == 1:
            return 1, 1
        if nodes is not None:
            each = processes // nodes
            if self.gpus_per_node and each > self.gpus_per_node:
                raise UserError(
                    f"compute.processes_per_node: {counted(each, 'process', 'processes')} a node, but this profile "
                    f"asks for {counted(self.gpus_per_node, 'GPU')} a node (gpus_per_node)"
                )
            return nodes, each
        each = min(self.processes_per_node or self.gpus_per_node or processes, processes)
        if processes % each:
            raise UserError(
                f"compute.processes: {processes} is not a multiple of this profile's {each} processes a node; change "
                "it, or the profile's processes_per_node"
            )
        return processes // each, each


class Profile(SpecModel):
    """A site: its option sets by name, the first being the default."""

    name: Name = Field(description="what messages call it [the file's name]")
    description: str = Field("", description="what it is for, shown by the command profiles")
    options: dict[Name, Options] = Field(
        min_length=1, description="option sets by name; the first one is the default, and keys outside hold for all"
    )

    def chosen(self, names: list[str] | None) -> dict[str, Options]:
        """The named option sets; the first one if none is named.

        Raises:
            UserError: an unknown name.
        """
        for name in names or ():
            if name not in self.options:
                raise UserError(f"profile {self.name}: {unknown('option set', name, self.options)}")
        return {name: self.options[name] for name in names or list(self.options)[:1]}


def load_profile(source: str) -> Profile:
    """A profile from its file, or a shipped one by its name.

    Raises:
        UserError: the file or a field is not valid.
    """
    path = find_shipped(SHIPPED, source)
    data = read_yaml(path)
    common = {name: data.pop(name) for name in list(data) if name not in Profile.model_fields}
    sets: Any = data.get("options") or {"default": {}}
    if isinstance(sets, dict):
        data["options"] = {
            name: {**common, **(own or {})} if isinstance(own, dict | None) else own for name, own in sets.items()
        }
    return validate(Profile, {"name": path.stem, **data}, str(path))


def shipped_profiles() -> list[Profile]:
    return [load_profile(name) for name in shipped_names(SHIPPED)]
