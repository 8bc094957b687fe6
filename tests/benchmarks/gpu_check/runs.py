"""The check's training runs: their specifications, and the project's own commands in child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_check.part import Check
from gpu_check.report import Row

if TYPE_CHECKING:
    from tensloradist.results.execute import Outcome
    from tensloradist.results.schema import Result
    from tensloradist.spec import RunSpec

TRAIN = ("numpy", "pydantic", "safetensors", "accelerate")  # what one run needs
RUN = (*TRAIN, "typer", "rich", "ruamel.yaml")  # `tensloradist run`
LAUNCH = (*RUN, "submitit")


def plain_run(check: Check, *, model: str | None = None, updates: int, **changes: Any) -> dict[str, Any]:
    """The plain values of a run of so many updates an epoch: of a ViT-S on a GPU, of a tiny one on the CPU.

    Args:
        changes: of sections or of fields beside them; `optimizer` and `compute` add to the defaults here.
    """
    name = model if model and check.on_gpu else "small" if check.on_gpu else "tiny"
    optimizer = {"epochs": 1, "batch_size": 32 if check.on_gpu else 8, "learning_rate": 1e-3}
    optimizer |= changes.pop("optimizer", {})
    compute = {"device": check.device, "checkpoint_seconds": None, **({} if check.on_gpu else {"threads": 1})}
    compute |= changes.pop("compute", {})
    return {
        "backbone": {"source": "plain", "name": name},
        "task": {"name": "plain_images", "train_examples": updates * optimizer["batch_size"]},
        "adapter": {"grouping": "att_qkv_depth", "ranks": 4},
        "optimizer": optimizer,
        "compute": compute,
        "plugins": ["gpu_check.plain"],
        **changes,
    }


def as_sweep(run: dict[str, Any], name: str, seeds: int = 1) -> dict[str, Any]:
    """A sweep of the run, with so many seeds."""
    adapter = run["adapter"]
    cell = {"methods": [{"tenslora": {"grouping": [adapter["grouping"]]}}]}
    conditions = {"conditions": [{"isorank": [adapter["ranks"]]}], "seeds": seeds}
    return {**{key: value for key, value in run.items() if key != "adapter"}, "name": name, **cell, **conditions}


def resolved(run: dict[str, Any]) -> RunSpec:
    from tensloradist.identity import resolve
    from tensloradist.plugins import load_plugins
    from tensloradist.spec import RunSpec

    load_plugins(run["plugins"])
    return resolve(RunSpec.model_validate(run))


def result_of(outcome: Outcome) -> Result:
    """The run's result. Raises RuntimeError, with the run's own traceback as a note, where it has none."""
    if outcome.result is not None:
        return outcome.result
    failure = outcome.failure
    error = RuntimeError(f"the run has no result: {failure.message if failure else outcome.status}")
    error.add_note((failure.traceback if failure else None) or "without a traceback")
    raise error


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, and what it wrote."""

    code: int
    output: str

    def row(self, check: Check, name: str, root: Path, has: str) -> Row:
        """That the command has fallen short: why its attempts failed, or else what it said last.

        Args:
            has: what is in its results folder, `root`.
        """
        lines = tuple(line.rstrip() for line in self.output.splitlines() if line.strip())[-20:]
        why = "; ".join(failures_in(root)[-2:]) or (lines[-1].strip() if lines else "not a word")
        text = f"the command ended with code {self.code}, {has}: {why}"
        return Row(part=check.part, check=name, state="falls short", text=text, output=lines)


def tensloradist(check: Check, *words: str, **variables: str) -> Ended:
    """Run a command of this project in a process of its own; what it writes is passed on at once."""
    with subprocess.Popen(
        [sys.executable, "-m", "tensloradist", *words],
        cwd=check.folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return Ended(process.returncode, "".join(lines))


def written(check: Check, name: str, content: dict[str, Any]) -> str:
    """The path of a file with this content: JSON, which is YAML, too."""
    path = check.folder / f"{name}.yaml"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return str(path)


def results_in(root: Path) -> list[dict[str, Any]]:
    """The published results of a results folder, in the order of their runs' ids."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(root.glob("runs/*/result.json"))]


def failures_in(root: Path) -> list[str]:
    """Why attempts failed, one line each."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(root.glob("runs/*/attempts/*/failure.json"))
    ]
    return [f"{record['cause']}: {record['message']}" for record in found]
