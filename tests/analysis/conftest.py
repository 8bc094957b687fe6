"""A results folder made by hand through the schema: scores that a test chooses, and everything that can go wrong."""

import pytest
from synthetic import method_of, put_manifest, result_of

from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import publish, write_failure
from tensloradist.results.schema import Condition, Failure, Fingerprints, Manifest, ManifestRun, Membership

PARAMETERS = {"lora": 100, "att tucker": 60, "qkv_depth tucker": 20}


class Folder:
    """`add` plans a run (and gives it a result, unless told otherwise); `write` writes the manifest."""

    def __init__(self, root):
        self.root, self.runs, self.results = root, {}, {}
        self.conditions = [
            Condition(name="isorank r=4", kind="isorank", rank=4),
            Condition(name="isoparameter r=4", kind="isoparameter", rank=4, strategy="balanced", tolerance=0.02),
        ]

    def add(
        self,
        row,
        seed,
        score=0.5,
        validation=None,
        rate=1e-3,
        conditions=("isorank r=4",),
        state="finished",
        ranks=4,
        residual=0.0,
        task="dtd",
        fingerprints=None,
        hardware="cpu",
        cause="bug",
        provenance=None,
    ):
        run_id = f"{row}-{task}-{seed}-{rate}-{ranks}".replace(" ", "_")
        memberships = tuple(Membership(condition=c, budget=100, residual=residual) for c in conditions)
        method = method_of(row)
        adapter = {"method": method, "grouping": None if method != "tenslora" else row.split()[0]}
        spec = {
            "seed": seed,
            "protocol": "sound",
            "backbone": {"source": "transformers", "name": "deit"},
            "task": {"name": "images", "fingerprint": f"data of {task}"},
            "adapter": {**adapter, "factorization": "tucker" if method == "tenslora" else None},
            "optimizer": {"learning_rate": rate, "epochs": 1, "lr_multipliers": {}},
        }
        self.runs[run_id] = ManifestRun(
            run_id=run_id,
            spec=spec,
            row=row,
            backbone="deit",
            task=task,
            ranks={"input": ranks, "output": ranks},
            adapter_parameters=PARAMETERS.get(row, 50),
            conditions=memberships,
        )
        folder = RunFolder(self.root, run_id)
        if state == "missing":
            return folder
        folder.attempt(1).mkdir(parents=True)
        if state == "failed":
            write_failure(folder.attempt(1), Failure(run_id=run_id, attempt=1, cause=cause, message="it broke"))
            return folder
        prints = {"data": "d", "split": "s", "data_order": f"o{seed}", "head": f"h{seed}", "backbone": "b"}
        publish(
            folder,
            result_of(
                run_id,
                state=state,
                score=score,
                validation=validation,
                fingerprints=Fingerprints(**{**prints, **(fingerprints or {})}),
                provenance={
                    "hardware": {"cpu": hardware, "gpu": None},
                    "versions": {"torch": "1"},
                    "precision": "fp32",
                    **(provenance or {}),
                },
            ),
        )
        return folder

    def write(self, shuffle=None):
        runs = list(self.runs.values())
        if shuffle:
            shuffle(runs)
        manifest = Manifest(name="s", sweep_sha256="0", conditions=tuple(self.conditions), runs=tuple(runs))
        self.digest = put_manifest(self.root, manifest)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def loaded_of(scores, seeds, conditions=None):
    """What loading would give for scores[task][row] (one a seed), without files."""
    from analysis.load.columns import COLUMNS, typed
    from analysis.model import FINGERPRINTS, Loaded

    condition = Condition(name="isorank r=4", kind="isorank", rank=4)
    rows = [
        {
            "sweep": "s",
            "run_id": f"{task}-{row}-{seed}",
            "row": row,
            "method": method_of(row),
            "backbone": "deit",
            "task": task,
            "data_set": f"data of {task}",
            "protocol": "sound",
            "condition": condition.name,
            "kind": "isorank",
            "condition_rank": 4,
            "seed": seed,
            "adapter_parameters": 10,
            "budget": 10,
            "residual": 0.0,
            "all_ranks_equal": True,
            "ranks": "input 4",
            "learning_rate": 1e-3,
            "state": "finished",
            "metric": "accuracy",
            "score": score,
            "validation_score": score,
            "hardware": "cpu",
            "versions": "torch 1",
            "precision": "fp32",
            **{f"fingerprint_{name}": f"{name} {seed}" for name in FINGERPRINTS},
        }
        for task, of_task in scores.items()
        for row, values in of_task.items()
        for seed, score in zip(seeds, values, strict=True)
    ]
    manifest = Manifest(name="s", sweep_sha256="0", conditions=(condition,), runs=())
    return Loaded(manifests=(manifest,), frame=typed(rows, COLUMNS))


@pytest.fixture(name="loaded_of", scope="session")
def _loaded_of():
    return loaded_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """The analysis' cache of each test is its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("analysis.load.cache.entry_path", lambda kind, key: folder / kind / key)
