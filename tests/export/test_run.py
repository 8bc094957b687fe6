"""Exporting a finished run by the command: what comes out predicts like the run; a mistake leaves nothing behind."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tensloradist import backbones, tasks
from tensloradist.adapter import load
from tensloradist.errors import UserError
from tensloradist.evaluation import evaluate_run
from tensloradist.export import export_run
from tensloradist.identity import resolve
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.spec import RunSpec
from tensloradist.tasks.examples import language_backbone, language_folder
from tensloradist.training import train

RUN = {
    "backbone": {"source": "digits_vit", "name": "digits_vit"},
    "task": {"name": "digits"},
    "adapter": {"grouping": "att_qkv_depth", "ranks": 3, "scale": 2.0},
    "optimizer": {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2},
    "compute": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Precision -> (specification, folder) of a finished run."""
    found = {}
    for precision in ("fp32", "bf16"):
        root = tmp_path_factory.mktemp("results")
        spec = resolve(RunSpec.model_validate({**RUN, "precision": precision}))
        assert execute(spec, root, train).status == "finished"
        found[precision] = spec, RunFolder(root, spec.run_id).path
    return found


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the float32 run's folder, to break."""
    shutil.copytree(finished["fp32"][1], tmp_path / "run")
    return tmp_path / "run"


def _accuracy(model, task, family):
    logits = family.logits(model, task.test.batch(np.arange(len(task.test)), None))
    return float((logits.argmax(-1).numpy() == task.test.labels).mean())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_both_forms_score_as_the_run_does(finished, precision, tmp_path):
    from peft import PeftModel
    from transformers import ViTForImageClassification

    spec, folder = finished[precision]
    export_run(folder, "peft", tmp_path / "lora")
    export_run(folder, "merged", tmp_path / "merged")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lora", "merged"], "no temporary folder is left"
    task = tasks.load(spec.task, spec.backbone, spec.protocol)
    plain = backbones.load(spec.backbone, task.num_labels)
    family = backbones.family_of(plain)
    merged = ViTForImageClassification.from_pretrained(tmp_path / "merged").eval()
    lora = PeftModel.from_pretrained(plain, str(tmp_path / "lora")).base_model.model
    again = evaluate_run(folder)["metrics"]["accuracy"]
    slack = 0 if spec.precision == "fp32" else 0.02  # evaluation computes as the run did, the exports in float32
    assert _accuracy(merged, task, family) == _accuracy(lora, task, family) == pytest.approx(again, abs=slack)
    assert json.loads((tmp_path / "lora/adapter_config.json").read_text())["base_model_name_or_path"] == "digits_vit"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bf16_run_belongs_to_the_backbone_in_both_precisions(finished, precision):
    spec, folder = finished["bf16"]
    model = backbones.load(spec.backbone, 5).to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    adapter = load(model, folder / "attempts" / "0001")
    adapter.detach()
    with torch.no_grad():
        model.get_parameter("vit.layers.0.attention.q_proj.weight")[0, 0] += 1
    with pytest.raises(UserError, match="other backbone weights"):
        load(model, folder / "attempts" / "0001")


def _edit_result(run, **changes):
    path = run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_tensors(run, change, name="adapter.safetensors"):
    path = run / "attempts" / "0001" / name
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _edit_backbone(run):
    path = run / "attempts" / "0001" / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "backbone": "0" * 32}))


BROKEN = {
    "the run is diverged": lambda run: _edit_result(run, state="diverged"),
    "no result.json": lambda run: (run / "result.json").unlink(),
    "no spec.json": lambda run: (run / "spec.json").unlink(),
    "missing tensors": lambda run: _edit_tensors(run, lambda t: t.pop("tensors.0.core")),
    "extra tensors": lambda run: _edit_tensors(run, lambda t: t.update(more=torch.zeros(1))),
    "has shape": lambda run: _edit_tensors(run, lambda t: t.update({"tensors.0.core": torch.zeros(2)})),
    "not a readable safetensors file": lambda run: (run / "attempts/0001/adapter.safetensors").write_bytes(b"\x80\x02"),
    "other backbone weights": _edit_backbone,
    "head.safetensors: not a readable": lambda run: (run / "attempts/0001/head.safetensors").unlink(),
    "classification head": lambda run: _edit_tensors(
        run, lambda t: t.pop("classifier.weight"), name="head.safetensors"
    ),
}


@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize("says", BROKEN)
def test_what_cannot_be_exported_leaves_nothing(run, tmp_path, says, form):
    BROKEN[says](run)
    with pytest.raises(UserError, match=says):
        export_run(run, form, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_what_exists_is_not_replaced(run, tmp_path, form):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        export_run(run, form, tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        export_run(run, form, tmp_path / "out" / "mine")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(UserError, match="Unknown form of export 'pef'. Did you mean 'peft'"):
        export_run(run, "pef", tmp_path / "other")


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_an_empty_folder_is_filled_and_stays_the_folder_that_it_was(run, tmp_path, form):
    """A mount, or a folder below one that the user cannot write into, cannot be replaced."""
    parent = tmp_path / "parent"
    (parent / "out").mkdir(parents=True, mode=0o750)
    before = (parent / "out").stat()
    (tmp_path / "link").symlink_to(parent / "out")
    assert export_run(run, form, tmp_path / "link") == []
    after = (parent / "out").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    export_run(run, form, tmp_path / "new")
    names = [sorted(p.name for p in folder.iterdir()) for folder in (parent / "out", tmp_path / "new")]
    assert names[0] == names[1] and len(names[0]) >= 2
    assert [p.name for p in parent.iterdir()] == ["out"]


def test_a_write_that_fails_leaves_an_empty_folder_empty(run, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    (tmp_path / "out").mkdir()
    monkeypatch.setattr("tensloradist.adapter.peft_files.write_replacing", full)
    with pytest.raises(UserError, match="No space left"):
        export_run(run, "peft", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def _labels_of(folder):
    config = json.loads((folder / "config.json").read_text())
    return list(config["id2label"].values()), config["label2id"]


def test_a_merged_checkpoint_names_the_runs_classes(run, tmp_path):
    export_run(run, "merged", tmp_path / "merged")
    assert _labels_of(tmp_path / "merged") == (list("56789"), {name: n for n, name in enumerate("56789")})


def test_a_run_from_before_names_were_recorded_has_those_of_its_data_or_says_that_nobody_knows(
    run, tmp_path, monkeypatch
):
    (run / "attempts/0001/classes.json").unlink()
    assert export_run(run, "merged", tmp_path / "merged") == []
    assert _labels_of(tmp_path / "merged")[0] == list("56789")

    def gone(*_):
        raise UserError("task.data: no folder photographs")

    monkeypatch.setattr("tensloradist.tasks.load", gone)
    notes = export_run(run, "merged", tmp_path / "unknown")
    assert len(notes) == 1 and "no folder photographs" in notes[0] and "LABEL_0 to LABEL_4" in notes[0]
    assert _labels_of(tmp_path / "unknown")[0] == [f"LABEL_{n}" for n in range(5)]


@pytest.mark.parametrize("content", ["", "{}", '["a"]', "[1, 2, 3, 4, 5]", "\xff"])
def test_a_broken_record_of_names_is_refused(run, tmp_path, content):
    (run / "attempts/0001/classes.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"classes.json|names of classes"):
        export_run(run, "merged", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_timms_merged_checkpoint_names_the_classes(tmp_path):
    import timm

    from tensloradist import AdapterSpec, attach

    model = timm.create_model("test_vit", num_classes=3)
    adapter = attach(model, AdapterSpec(method="lora"))
    with pytest.raises(UserError, match="2 names for a model with 3 labels"):
        adapter.export_merged(tmp_path / "out", classes=["cat", "dog"])
    adapter.export_merged(tmp_path / "out", classes=["cat", "dog", "eel"])
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert list(again.pretrained_cfg["label_names"]) == ["cat", "dog", "eel"]


def test_load_takes_a_finished_runs_folder_or_its_attempts(run):
    spec = RunSpec.model_validate_json((run / "spec.json").read_text())
    found = []
    for folder in (run, run / "attempts" / "0001"):
        model = backbones.load(spec.backbone, 5)
        found.append(load(model, folder).state_dict())
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())
    _edit_result(run, state="diverged")
    with pytest.raises(UserError, match="the run is diverged; only a finished run has an adapter"):
        load(backbones.load(spec.backbone, 5), run)
    (run / "result.json").unlink()
    with pytest.raises(UserError, match="no result.json"):
        load(backbones.load(spec.backbone, 5), run)


def test_without_peft_its_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"tensloradist\[export\]"):
        export_run(run, "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_a_write_that_fails_leaves_nothing(run, tmp_path, monkeypatch, form):
    """As on a full disk, in the middle of the second file."""

    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device", str(path))

    def full_too(self, folder, **_):
        (Path(folder) / "config.json").write_text("{")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("tensloradist.adapter.peft_files.write_replacing", full)
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full_too)
    with pytest.raises(UserError, match="out: cannot be written .*No space left.*nothing of it is left"):
        export_run(run, form, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_language_models_run_is_exported_in_both_forms(tmp_path):
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    backbone, task = language_backbone(tmp_path), language_folder(tmp_path)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(backbone.name)).save_pretrained(backbone.name)
    backbone = backbone.model_copy(update={"random_init": False})
    GenerationConfig(eos_token_id=[7, 8], do_sample=True, temperature=0.5).save_pretrained(backbone.name)
    spec = resolve(
        RunSpec.model_validate(
            {
                **RUN,
                "backbone": backbone.model_dump(),
                "task": task.model_dump(),
                "optimizer": {**RUN["optimizer"], "batch_size": 4},
            }
        )
    )
    assert execute(spec, tmp_path / "results", train).status == "finished"
    folder = RunFolder(tmp_path / "results", spec.run_id).path
    export_run(folder, "peft", tmp_path / "lora")
    export_run(folder, "merged", tmp_path / "merged")
    model = backbones.load(spec.backbone, backbones.LANGUAGE_MODEL)
    load(model, folder / "attempts" / "0001")
    plain = backbones.load(spec.backbone, backbones.LANGUAGE_MODEL)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = model(ids).logits
        assert (plain(ids).logits - expected).abs().max() > 1e-3
        lora = PeftModel.from_pretrained(plain, str(tmp_path / "lora"))
        for found in (lora(ids).logits, merged(ids).logits):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert merged.generation_config.eos_token_id == [7, 8] and merged.generation_config.temperature == 0.5
