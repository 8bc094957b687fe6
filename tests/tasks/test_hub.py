"""Hub data sets without a network: a cache in huggingface_hub's own layout, pinned, incomplete, or absent."""

import json
import os
import subprocess
import sys

import pytest

from tensloradist.tasks.examples import image_backbone, image_hub_folder, text_backbone
from tensloradist.tasks.named_images import HUB_IMAGES

COMMIT = "0123456789abcdef0123456789abcdef01234567"

SCRIPT = """
import json, sys
from tensloradist.errors import UserError
from tensloradist.spec import BackboneSpec, TaskSpec
from tensloradist.tasks import load, task_named

task, backbone = TaskSpec(**json.loads(sys.argv[1])), BackboneSpec(name=sys.argv[2])
entry = task_named(task.name)
found = {"missing": entry.missing(task)}
try:
    found["fingerprint"] = entry.fingerprint(task)
    loaded = load(task.model_copy(update={"fingerprint": found["fingerprint"]}), backbone)
    found["sizes"] = [len(part) for part in (loaded.train, loaded.validation, loaded.test)]
except UserError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture
def offline(tmp_path):
    """Runs a task in a process of its own, since huggingface_hub reads its environment when it is imported."""
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TENSLORADIST_CACHE": str(tmp_path / "cache"),
    }

    def run(backbone, **task):
        command = [sys.executable, "-c", SCRIPT, json.dumps(task), backbone.name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def cached(tmp_path, name, branch=None):
    """The folder of a commit in the Hub's cache, with the branch that leads to it."""
    repository = tmp_path / "hf" / "hub" / f"datasets--{name.replace('/', '--')}"
    if branch:
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / branch).write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_fetched_image_set_is_loaded_from_its_commit(tmp_path, offline):
    entry, backbone = HUB_IMAGES["cifar10"], image_backbone(tmp_path)
    image_hub_folder(tmp_path, entry)
    (tmp_path / "hub" / "data").rename(cached(tmp_path, entry.name, branch="main") / "plain_text")
    found = offline(backbone, name="cifar10")
    assert found == {"missing": [], "fingerprint": f"{entry.name}@{COMMIT}", "sizes": [24, 6, 30]}


def test_a_fetched_text_is_loaded_from_its_commit(tmp_path, offline):
    from datasets import Dataset

    snapshot = cached(tmp_path, "nyu-mll/glue")  # no branch: fetched by its commit
    for folder, label in (("rte", 1), ("cola", 0)):
        (snapshot / folder).mkdir()
        for split, number in (("train", 30), ("validation", 9)):
            rows = [{"sentence1": "a", "sentence2": "b", "label": label * (i % 2), "idx": i} for i in range(number)]
            Dataset.from_list(rows).to_parquet(str(snapshot / folder / f"{split}-00000-of-00001.parquet"))
    backbone = text_backbone(tmp_path)
    found = offline(backbone, name="rte", revision=COMMIT)
    assert found == {"missing": [], "fingerprint": f"nyu-mll/glue@{COMMIT}#rte", "sizes": [28, 2, 9]}
    pinned = offline(backbone, name="rte", fingerprint=f"nyu-mll/glue@{COMMIT}#rte")
    assert pinned == found, "a run's fingerprint pins the commit, whatever the branch has become"


def test_half_a_download_is_missing_and_never_read(tmp_path, offline):
    entry, backbone = HUB_IMAGES["cifar10"], image_backbone(tmp_path)
    image_hub_folder(tmp_path, entry)
    snapshot = cached(tmp_path, entry.name, branch="main") / "plain_text"
    (tmp_path / "hub" / "data").rename(snapshot)
    (snapshot / "train-00000-of-00001.parquet").rename(snapshot / "train-00000-of-00002.parquet")
    found = offline(backbone, name="cifar10")
    assert found["missing"] == [f"data set {entry.name}@{COMMIT} (run `tensloradist fetch`)"]
    assert (
        "has a complete set of" in found["error"] and "tensloradist fetch" in found["error"] and "sizes" not in found
    )


def test_an_unknown_data_set_without_a_network_says_what_to_do(tmp_path, offline):
    found = offline(image_backbone(tmp_path), name="dtd")
    assert found["missing"] == ["data set tanganke/dtd (run `tensloradist fetch`)"]
    assert (
        "'tanganke/dtd' is neither an existing path nor in the local Hub cache, and the Hub is out of reach"
        in found["error"]
    )
    assert "tensloradist fetch" in found["error"] and "task.revision" in found["error"]


def test_aircraft_is_pinned_to_the_commit_with_parquet_files(tmp_path, offline):
    found = offline(image_backbone(tmp_path), name="fgvc_aircraft")
    assert found["fingerprint"] == "HuggingFaceM4/FGVC-Aircraft@e18a7c97147c90dc7f4a60d74a7f4258e9264e97"
