"""A synthetic results folder of any size, through the schema: tasks, backbones, methods, conditions, seeds, rates,
curves and failures. The same arguments give the same files; 10,000 runs take seconds, since nothing is synced."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from tensloradist.results.layout import RunFolder, sweep_folder
from tensloradist.results.manifests import manifest_digest
from tensloradist.results.schema import (
    AttemptEnd,
    AttemptRecord,
    Condition,
    Failure,
    Fingerprints,
    Manifest,
    ManifestRun,
    Membership,
    Metrics,
    PeakMemory,
    Result,
    Times,
)
from tensloradist.spec import RunSpec

GROUPINGS = ("att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth")
FACTORIZATIONS = ("tucker", "cp", "tensor_train", "tensor_ring")
METHODS = ("lora", *(f"{grouping} tucker" for grouping in GROUPINGS))
THIRTY = ("head", "lora", *(f"{g} {f}" for g in GROUPINGS for f in FACTORIZATIONS))
MODES = ("projection", "depth", "heads", "head_dim", "input")


def put_manifest(root: Path, manifest: Manifest) -> str:
    """Write a manifest as a launch would, as the newest one; returns its digest."""
    text = manifest.model_dump_json()
    folder, digest = sweep_folder(root, manifest.name), manifest_digest(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{digest}.json").write_text(text)
    (folder / "latest").write_text(f"{digest}\n")
    return digest


def method_of(row: str) -> str:
    """The method of a row of the tables: lora, head or full, and tenslora for 'att tucker'."""
    return row.split()[0] if row.split()[0] in ("lora", "head", "full") else "tenslora"


def result_of(
    run_id="run", *, attempt=1, state="finished", metric="accuracy", score=0.5, validation=None, best_epoch=1, **fields
):
    """A result that the schema accepts; a diverged one has no score.

    Args:
        validation: the validation score; None: the test score.
        fields: of `Result`, or of its times, in place of the plain ones here.
    """
    score = None if state == "diverged" else score
    validation = score if validation is None or score is None else validation
    times = dict.fromkeys((f"{part}_seconds" for part in ("total", "load", "train", "evaluate")), 1.0)
    times |= {"step_seconds": 0.1, "samples_per_second": 10.0, "steps": 3}
    times |= {name: fields.pop(name) for name in times.keys() & fields.keys()}
    plain = {
        "adapter_parameters": 10,
        "trainable_parameters": 20,
        "metrics": Metrics(
            primary=metric,
            validation={metric: validation},
            test={metric: score},
            test_at_best_validation={metric: score},
            best_epoch=best_epoch,
            score=score,
            validation_score=validation,
        ),
        "times": Times(**times),
        "peak_memory": PeakMemory(host_bytes=1, device_bytes=None),
        "fingerprints": Fingerprints(data="d", split="s", data_order="o", head="h", backbone="b"),
        "provenance": {},
    }
    return Result(run_id=run_id, state=state, attempt=attempt, **{**plain, **fields})


def spec_of(seed=0, **sections):
    """A resolved specification; `sections` are fields of a section, or values, in place of the plain ones here."""
    plain = {
        "backbone": {"name": "b", "fingerprint": "b"},
        "task": {"name": "digits", "fingerprint": "t"},
        "adapter": {"method": "lora"},
    }
    given = {k: plain.get(k, {}) | value if isinstance(value, dict) else value for k, value in sections.items()}
    return RunSpec.model_validate({**plain, "seed": seed, **given})


def planned_run(run_id="run", spec=None, **fields):
    """A run of a manifest."""
    member = Membership(condition="isorank r=2", budget=1, residual=0.0)
    plain = {"row": "lora", "backbone": "b", "task": "t", "ranks": {}, "adapter_parameters": 1, "conditions": (member,)}
    return ManifestRun(run_id=run_id, spec=spec or spec_of(), **{**plain, **fields})


@dataclass
class Synthetic:
    """What is in the folder. `write` returns the number of runs."""

    name: str = "synthetic"
    tasks: tuple[str, ...] = ("dtd",)
    backbones: tuple[str, ...] = ("deit_tiny",)
    methods: tuple[str, ...] = METHODS
    ranks: tuple[int, ...] = (4,)
    kinds: tuple[str, ...] = ("isorank", "isoparameter")  # and 'isoparameter spectrum'
    seeds: int = 3
    rates: tuple[float, ...] = (5e-4, 2e-3)
    epochs: int = 3
    spread: float = 0.01  # standard deviation over seeds
    effect: float = 0.02  # of the methods' true differences to LoRA
    metrics: dict[str, str] = field(default_factory=dict)  # task -> metric, where not accuracy
    left_out: tuple[tuple[str, str], ...] = ()  # (method, condition) that the sweep has not
    failed: tuple[tuple[str, int], ...] = ()  # (method, seed)
    diverged: tuple[tuple[str, int], ...] = ()
    missing: tuple[tuple[str, int], ...] = ()
    other_hardware: tuple[str, ...] = ()  # methods that ran elsewhere

    def write(self, root: Path) -> int:
        conditions = [self._condition(kind, rank) for kind in self.kinds for rank in self.ranks]
        runs: dict[str, ManifestRun] = {}
        for seed in range(self.seeds):
            for backbone in self.backbones:
                for task in self.tasks:
                    for method in self.methods:
                        for condition in conditions:
                            if (method, condition.name) not in self.left_out:
                                for rate in self.rates:
                                    self._plan(runs, backbone, task, method, condition, rate, seed)
        for run in runs.values():
            self._write_run(root, run)
        manifest = Manifest(
            name=self.name, sweep_sha256="0" * 64, conditions=tuple(conditions), runs=tuple(runs.values())
        )
        put_manifest(root, manifest)
        return len(runs)

    def _condition(self, kind: str, rank: int) -> Condition:
        if kind == "isorank":
            return Condition(name=f"isorank r={rank}", kind="isorank", rank=rank)
        _, _, strategy = kind.partition(" ")
        return Condition(
            name=f"isoparameter r={rank} {strategy}".strip(),
            kind="isoparameter",
            rank=rank,
            strategy=strategy or "balanced",
            tolerance=0.02,
        )

    def _plan(self, runs, backbone, task, method, condition, rate, seed):
        kind = method_of(method)
        budget = 1152 * condition.rank
        tensor = kind == "tenslora"
        rank = condition.rank
        if tensor and condition.kind == "isoparameter":
            rank = (2 if condition.strategy == "balanced" else 3) * condition.rank
        count = {"lora": budget, "head": 0, "full": 5_500_000}.get(kind)
        if count is None:
            draw = self._random("parameters", method).uniform(0.1, 0.9)
            count = round(budget * draw) if condition.kind == "isorank" else round(budget * (1 - 0.02 * draw))
        spec = {
            "version": 1,
            "seed": seed,
            "protocol": "sound",
            "backbone": {"source": "transformers", "name": f"models/{backbone}", "fingerprint": f"hash of {backbone}"},
            "task": {"name": "images", "data": f"data/{task}", "fingerprint": f"hash of {task}", "split_seed": 0},
            "adapter": {
                "method": kind,
                "grouping": method.split()[0] if tensor else None,
                "factorization": method.split()[1] if tensor else "lora",
                "ranks": dict.fromkeys(MODES, rank) if tensor else rank,
                "scale": 1.0,
            },
            "optimizer": {"learning_rate": rate, "epochs": self.epochs, "batch_size": 32, "lr_multipliers": {}},
            "compute": {"device": "auto"},
        }
        run_id = sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
        membership = Membership(condition=condition.name, budget=budget, residual=count / budget - 1)
        if run_id in runs:
            old = runs[run_id]
            runs[run_id] = old.model_copy(update={"conditions": (*old.conditions, membership)})
            return
        if kind in ("head", "full"):
            spec["adapter"] = {"method": kind}
        elif tensor:  # also of factorisations that are not registered
            spec["adapter"]["initialization"] = "orthogonal"
        ranks = dict.fromkeys(MODES, rank) if tensor else {} if kind in ("head", "full") else {"rank": rank}
        runs[run_id] = ManifestRun(
            run_id=run_id, spec=spec, row=method, backbone=backbone, task=task, ranks=ranks,
            adapter_parameters=count, conditions=(membership,),
        )  # fmt: skip

    def _random(self, *key) -> np.random.Generator:
        return np.random.default_rng(int(sha256(repr(key).encode()).hexdigest()[:8], 16))

    def _score(self, run: ManifestRun) -> float:
        rank, rate, seed = run.conditions[0].condition, run.spec.optimizer.learning_rate, run.spec.seed
        level = 0.6 + 0.25 * self._random("task", run.task, run.backbone).random()
        effect = 0.0 if run.row == "lora" else self._random("method", run.row, run.task, rank).normal(0, self.effect)
        effect += {"head": -0.15, "full": 0.06}.get(run.row, 0.0)
        tuned = -0.01 * abs(np.log10(rate / 1e-3))
        shared = self._random("seed", run.task, seed).normal(0, self.spread)
        own = self._random("own", run.row, run.task, rank, rate, seed).normal(0, self.spread / 2)
        return float(np.clip(level + effect + tuned + shared + own, 0.0, 1.0))

    def _write_run(self, root: Path, run: ManifestRun) -> None:
        key = (run.row, run.spec.seed)
        folder = RunFolder(root, run.run_id)
        folder.path.mkdir(parents=True)
        folder.spec.write_text(run.spec.model_dump_json())
        if key in self.missing:
            return
        attempt = folder.attempt(1)
        attempt.mkdir(parents=True)
        began = AttemptRecord(
            run_id=run.run_id, attempt=1, started=1.7e9, host="node1", user="somebody", pid=1, slurm=None,
            compute={"device": "cpu"}, resumed_from=None,
        )  # fmt: skip
        (attempt / "attempt.json").write_text(began.model_dump_json())
        if key in self.failed:
            cause = "out_of_device_memory"
            failure = Failure(run_id=run.run_id, attempt=1, cause=cause, message="CUDA out of memory", traceback=None)
            (attempt / "failure.json").write_text(failure.model_dump_json())
            end = AttemptEnd(run_id=run.run_id, attempt=1, ended=1.7e9 + 60, state="failed", cause=cause)
            (attempt / "end.json").write_text(end.model_dump_json())
            return
        state = "diverged" if key in self.diverged else "finished"
        end = AttemptEnd(run_id=run.run_id, attempt=1, ended=1.7e9 + 60, state=state)
        (attempt / "end.json").write_text(end.model_dump_json())
        self._publish(folder, run, state)

    def _publish(self, folder: RunFolder, run: ManifestRun, state: str) -> None:
        metric = self.metrics.get(run.task, "accuracy")
        score = None if state == "diverged" else self._score(run)
        validation = None if score is None else score - 0.01
        if validation is not None:
            curve = [validation * (1 - 0.4 * np.exp(-2 * epoch / self.epochs)) for epoch in range(1, self.epochs)]
            lines = [
                json.dumps({"epoch": i, "step": 10 * i, "train_loss": 1 / i, "validation": {metric: v}, "seconds": 1.0})
                for i, v in enumerate([*curve, validation], 1)
            ]
            (folder.attempt(1) / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        seed = run.spec.seed
        elsewhere = run.row in self.other_hardware
        steps = 0.02 * (1 + self._random("time", run.row).random())
        result = result_of(
            run.run_id, state=state, metric=metric, score=score, validation=validation, best_epoch=self.epochs,
            adapter_parameters=run.adapter_parameters,
            trainable_parameters=run.adapter_parameters + 1930,
            total_seconds=70.0, load_seconds=3.0, train_seconds=60.0, evaluate_seconds=7.0,
            step_seconds=steps * (1 + 0.02 * seed), samples_per_second=32 / steps, steps=10 * self.epochs,
            peak_memory=PeakMemory(
                host_bytes=900_000_000, device_bytes=None if not elsewhere else 600_000_000 + 10_000_000 * seed
            ),
            fingerprints=Fingerprints(
                data=f"data {run.task}", split=f"split {run.task}", data_order=f"order {run.task} {seed}",
                head=f"head {run.backbone} {seed}", backbone=run.backbone,
            ),
            provenance={
                "hardware": {"cpu": "a processor", "gpu": "a graphics card" if elsewhere else None},
                "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
                "precision": "fp32",
                "code": {"commit": "0123456789abcdef"},
                "host": "node1",
            },
        )  # fmt: skip
        folder.result.write_text(result.model_dump_json())
