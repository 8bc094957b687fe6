"""How a run is executed: processes, their strategy and memory, checkpoints. None of it may change a result."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tensloradist.validation import PositiveInt, SpecModel


class ComputeSpec(SpecModel):
    """How a run is executed. None of it may change the result, so it is not part of the run's identity."""

    processes: PositiveInt = Field(1, description="processes that train one run together")
    nodes: PositiveInt | None = Field(None, description="machines for the run's processes; null: as in the profile")
    processes_per_node: PositiveInt | None = Field(
        None, description="with nodes (null: 1), another way to give the number of processes"
    )
    strategy: Literal["single", "ddp", "zero1", "zero2", "zero3"] = Field(
        "single",
        description="zero1 shards the optimiser's state over processes, zero2 gradients too, zero3 all weights",
    )
    offload: Literal["none", "optimizer", "cpu"] = Field(
        "none",
        description="ZeRO: keep the optimiser's state in the CPU's memory; cpu: with zero3, the weights too",
    )
    activation_checkpointing: bool = Field(False, description="recompute each block in the backward pass: less memory")
    compile: bool = Field(
        False, description="torch.compile each block: a slow start, then faster steps on most GPUs; not with zero3"
    )
    deepspeed_config: str | None = Field(None, description="ZeRO: a DeepSpeed JSON file for what the spec leaves open")
    timeout_seconds: float = Field(600.0, gt=0, description="how long a process waits for the others")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    micro_batch: PositiveInt | None = Field(None, description="examples per process and pass; null: no accumulation")
    evaluation_batch: PositiveInt | None = Field(
        None,
        description="examples per process and evaluation pass; null: 64, or 4 × micro_batch if less; halved when "
        "device memory runs out",
    )
    threads: PositiveInt | None = Field(None, description="CPU threads per process; null: torch's default")
    checkpoint_steps: PositiveInt | None = Field(None, description="updates between checkpoints; null: by time only")
    checkpoint_seconds: float | None = Field(300.0, gt=0, description="between checkpoints; null: by updates only")
    log_with: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        (), description="trackers that losses and scores are sent to, beside metrics.jsonl"
    )

    @property
    def zero_stage(self) -> int:
        """1, 2 or 3 under ZeRO, else 0."""
        return int(self.strategy[-1]) if self.strategy.startswith("zero") else 0

    @model_validator(mode="before")
    @classmethod
    def _product(cls, data: Any) -> Any:
        """Fill in the third of nodes, processes_per_node and processes from the other two."""
        if not isinstance(data, dict):
            return data
        nodes, each, processes = (data.get(name) for name in ("nodes", "processes_per_node", "processes"))
        if isinstance(each, int):
            nodes = 1 if nodes is None else nodes
            if isinstance(nodes, int):
                data = {**data, "nodes": nodes, "processes": processes or nodes * each}
        elif isinstance(nodes, int) and nodes > 0 and isinstance(processes, int) and processes % nodes == 0:
            data = {**data, "processes_per_node": processes // nodes}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nodes is not None and self.nodes * (self.processes_per_node or 0) != self.processes:
            raise ValueError(
                f"processes: {self.processes} is not nodes × processes_per_node = {self.nodes} × "
                f"{self.processes_per_node or '?'}; give two of the three"
            )
        if self.strategy == "single" and self.processes != 1:
            raise ValueError(
                f"processes: strategy single has 1 process, not {self.processes}; use ddp or zero1 to zero3"
            )
        if self.compile and self.strategy == "zero3":
            raise ValueError(
                "compile: true is not supported with zero3, which gathers a block's weights while the block runs; "
                "leave it out, or use zero2"
            )
        if not self.zero_stage:
            for name in ("offload", "deepspeed_config"):
                if getattr(self, name) not in ("none", None):
                    raise ValueError(
                        f"{name}: {getattr(self, name)!r} is for zero1 to zero3, not for strategy {self.strategy}"
                    )
        return self
