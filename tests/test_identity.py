"""A run's id: pinned for ever, made of content, blind to paths, plugins and compute."""

import shutil

import pytest

from tensloradist.errors import UserError
from tensloradist.identity import resolve, resolve_all
from tensloradist.spec import RunSpec

BACKBONE = {"name": "somewhere/deit", "fingerprint": "b" * 32}
TASK = {"name": "images", "data": "somewhere/dtd", "fingerprint": "d" * 32}
TUCKER = {"method": "tenslora", "grouping": "qkv_depth", "factorization": "tucker"}


def run(**changes):
    return RunSpec.model_validate({"backbone": BACKBONE, "task": TASK, "adapter": TUCKER, **changes})


# Results are found by these ids for ever: a change here orphans every result there is. A field that is added later
# belongs into spec.ADDED_LATER instead.
PINNED = [
    ({}, "602ba6666cd58d92"),
    ({"seed": 1}, "6e91eb8abf85c791"),
    ({"adapter": {"method": "lora"}}, "5d07b49cae76a76a"),
    ({"adapter": {"method": "lora", "ranks": 16, "scale": 2.0, "dropout": 0.1}}, "26349fafd6c32266"),
    ({"adapter": {"grouping": "att", "head_layout": "official"}}, "2c7ed5dce013971a"),
    (
        {
            "adapter": {
                "grouping": "att_qkv_depth",
                "ranks": {"input": 8, "head_dim": 8, "heads": 3, "projection": 3, "depth": 12},
            }
        },
        "2a7e21b3eb0b6400",
    ),
    (
        {"adapter": {"grouping": "depth", "projections": ["query", "value"], "initialization": "normal"}},
        "35b6972681eec8a8",
    ),
    (
        {"optimizer": {"epochs": 3, "batch_size": 32, "learning_rate": 2e-3, "lr_multipliers": {"core": 8.0}}},
        "797adcd16a28b655",
    ),
    ({"protocol": "official", "precision": "bf16"}, "88993ab9cb54c1f7"),
    (
        {
            "backbone": {"source": "timm", "name": "deit_tiny_patch16_224", "fingerprint": "timm/deit@0"},
            "task": {"name": "mrpc", "fingerprint": "m", "split_seed": 3, "train_examples": 100, "max_length": 64},
        },
        "77c0ab94515084df",
    ),
]


@pytest.mark.parametrize(("changes", "run_id"), PINNED)
def test_ids_are_pinned_for_ever(changes, run_id):
    assert run(**changes).run_id == run_id


def test_pinned_ids_are_distinct():
    assert len({run_id for _, run_id in PINNED}) == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {**BACKBONE, "name": "/another/cluster/deit"}},
        {"backbone": {**BACKBONE, "revision": "main"}},
        {"backbone": {**BACKBONE, "weights": "/x/model.safetensors"}},
        {"task": {**TASK, "data": "/another/cluster/dtd"}},
        {"task": {**TASK, "revision": "main"}},
        {"compute": {"processes": 2, "strategy": "ddp", "device": "cpu", "micro_batch": 4, "threads": 1}},
        {"plugins": ["my_package.tasks"]},
        {"adapter": {**TUCKER, "ranks": 4, "scale": 1.0}},  # the defaults, said
    ],
)
def test_paths_compute_and_plugins_do_not_count(changes):
    assert run(**changes).run_id == run().run_id


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {**BACKBONE, "fingerprint": "other"}},
        {"backbone": {**BACKBONE, "source": "timm"}},
        {"task": {**TASK, "fingerprint": "other"}},
        {"task": {**TASK, "name": "cola"}},
        {"task": {**TASK, "split_seed": 1}},
        {"task": {**TASK, "train_examples": 10}},
        {"task": {**TASK, "max_length": 10}},
        {"task": {**TASK, "augmentation": "flip"}},
        {"adapter": {"method": "lora"}},
        {"adapter": {**TUCKER, "grouping": "qkv"}},
        {"adapter": {**TUCKER, "ranks": 5}},
        {"adapter": {**TUCKER, "ranks": {"input": 4, "output": 4, "projection": 3, "depth": 4}}},
        {"adapter": {**TUCKER, "projections": ["query", "value"]}},
        {"adapter": {**TUCKER, "head_layout": "official"}},
        {"adapter": {**TUCKER, "initialization": "normal"}},
        {"adapter": {**TUCKER, "scale": 2.0}},
        {"adapter": {**TUCKER, "dropout": 0.1}},
        {"adapter": {**TUCKER, "dropout_on": "hidden"}},
        {"adapter": {**TUCKER, "fused": True}},
        {"adapter": {**TUCKER, "head_side": "output"}},
        {"adapter": {**TUCKER, "alpha": 4.0}},
        {"adapter": {**TUCKER, "factorization": "tt"}},
        {"adapter": {**TUCKER, "factorization": "tt", "mode_order": ["input", "depth", "projection", "output"]}},
        {"adapter": {"method": "fact_tt"}},
        {"adapter": {"method": "full"}},
        {"optimizer": {"epochs": 11}},
        {"optimizer": {"batch_size": 65}},
        {"optimizer": {"learning_rate": 1e-3}},
        {"optimizer": {"weight_decay": 0.0}},
        {"optimizer": {"schedule": "linear"}},
        {"optimizer": {"warmup": 0.1}},
        {"optimizer": {"min_learning_rate": 0.0}},
        {"optimizer": {"gradient_clipping": 1.0}},
        {"optimizer": {"lr_multipliers": {"core": 2.0}}},
        {"precision": "bf16"},
        {"seed": 1},
        {"protocol": "official"},
    ],
)
def test_everything_else_counts(changes):
    assert run(**changes).run_id != run().run_id


@pytest.fixture
def folders(tmp_path):
    """A model's folder and an image folder, as two users keep them."""
    for user in ("ann", "bob"):
        model = tmp_path / user / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"weights")
        (model / "README.md").write_text(f"{user}'s notes do not matter")
        for label in ("left", "right"):
            (tmp_path / user / "data" / label).mkdir(parents=True)
            (tmp_path / user / "data" / label / "1.png").write_bytes(label.encode())
    return tmp_path


def local(folder):
    return run(backbone={"name": str(folder / "model")}, task={"name": "images", "data": str(folder / "data")})


def test_two_users_get_one_id_for_the_same_content(folders):
    ann, bob = resolve_all([local(folders / "ann"), local(folders / "bob")])
    assert ann.run_id == bob.run_id
    assert ann.backbone.name != bob.backbone.name
    assert ann == resolve(local(folders / "ann"))
    shutil.copy(folders / "ann/data/left/1.png", folders / "ann/data/left/2.png")
    assert resolve(local(folders / "ann")).run_id != bob.run_id
    (folders / "bob/model/model.safetensors").write_bytes(b"other weights")
    assert resolve(local(folders / "bob")).run_id != bob.run_id


def test_a_resolved_run_whose_files_have_changed_is_refused(folders):
    ann = resolve(local(folders / "ann"))
    assert resolve(ann) == ann
    (folders / "ann/model/config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(UserError, match=r"backbone\.fingerprint.*changed"):
        resolve(ann)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"name": "/nowhere/model"}}, "/nowhere/model"),
        ({"backbone": {"name": "x", "source": "tim"}}, "Did you mean 'timm'"),
        (
            {"backbone": {"source": "digits_vit", "name": "digits_vit"}, "task": {"name": "digit"}},
            "Did you mean 'digits'",
        ),
        ({"backbone": {"source": "digits_vit", "name": "digits"}}, "digits_vit"),
        (
            {
                "backbone": {"source": "digits_vit", "name": "digits_vit"},
                "task": {"name": "images", "data": "/nowhere/data"},
            },
            "/nowhere/data",
        ),
    ],
)
def test_what_does_not_exist_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        resolve(run(**changes))


def test_ten_thousand_runs_look_at_each_folder_once(folders):
    """Planning: the files of a model are not walked for every run."""
    spec = local(folders / "ann")
    specs = [spec.model_copy(update={"seed": seed}) for seed in range(10_000)]
    resolved = resolve_all(specs)
    assert len({id(one.backbone) for one in resolved}) == 1
    assert len({one.run_id for one in resolved}) == 10_000
