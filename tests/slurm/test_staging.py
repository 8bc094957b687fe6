"""Copies on a node's own disk: made once by whichever worker comes first, and a folder that cannot be is said."""

import pytest
from slurm_sweeps import Sweep, wait_until

from tensloradist.tasks.examples import image_backbone, image_folder

pytestmark = pytest.mark.slurm


def test_data_and_backbone_are_copied_once_a_node(cluster, tmp_path):
    sweep = Sweep(tmp_path, seeds=4, epochs=2, parallel=1)
    data, backbone = image_folder(tmp_path).data, image_backbone(tmp_path).name
    text = sweep.file.read_text().replace("batch_size: 16", "batch_size: 4")
    text = text.replace("source: digits_vit, name: digits_vit", f"source: transformers, name: {backbone}")
    sweep.file.write_text(text.replace("name: paced, train_examples: 144}", f"name: images, data: {data}}}"))
    target = tmp_path / "node-local"
    sweep.profile.write_text(sweep.profile.read_text() + f"workers_per_node: 2\nstage: {target}\n")
    sweep.launch()
    assert len(sweep.wait_finished()) == 4
    assert {record["user"] for record in sweep.records("attempt.json")} and len(sweep.records("attempt.json")) == 4
    copies = {path.name for path in target.glob("*/*") if path.is_dir()}
    assert copies == {"images", "vit"}, "one copy of each, named by its content's hash"


def test_workers_that_cannot_begin_say_so_in_the_status(cluster, tmp_path):
    sweep = Sweep(tmp_path, epochs=2)
    sweep.profile.write_text(sweep.profile.read_text() + "stage: $NOWHERE/stage\n")
    sweep.launch()
    wait_until(lambda: "ended by its own error" in sweep.status(), 60, sweep.status)
    assert "expected an absolute path" in sweep.status() and not sweep.results()
