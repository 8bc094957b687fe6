"""The training state is the one list of what a checkpoint holds: nothing that training changes is left out of it."""

from dataclasses import fields

import pytest
import torch

from tensloradist import backbones, tasks
from tensloradist.identity import resolve
from tensloradist.spec import RunSpec
from tensloradist.training.accelerator import make_accelerator, only_the_spec, release
from tensloradist.training.build import build
from tensloradist.training.state import TrainState
from tensloradist.training.strategy import Strategy

OF_THIS_PROCESS = {"parts", "evaluation", "communication"}


@pytest.fixture
def built(tmp_path):
    """States of one run, each built anew."""
    spec = {
        "backbone": {"source": "digits_vit", "name": "digits_vit"},
        "task": {"name": "digits"},
        "adapter": {"grouping": "att", "ranks": 2},
        "optimizer": {"epochs": 3, "batch_size": 64, "schedule": "linear"},
        "compute": {"device": "cpu", "threads": 1},
    }
    spec = resolve(RunSpec.model_validate(spec))
    task = tasks.load(spec.task, spec.backbone)
    with only_the_spec(1):
        accelerator = make_accelerator(spec, tmp_path)

        def one(saved=None):
            model = backbones.load(spec.backbone, task.num_labels)
            return build(spec, task, model, Strategy(spec, accelerator), saved)

        yield one
        release(accelerator)


def changed(state):
    """Give every field that a checkpoint holds another value; returns the names of these fields."""
    parts = state.parts
    for parameter in parts.strategy.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    parts.strategy.update()
    parts.schedule.step()
    torch.rand(3)  # as dropout draws
    scores = {"accuracy": 0.5}
    state.scores.add_validation(1, scores, torch.ones(2, 5).numpy())
    state.scores.predictions["test"] = torch.zeros(3, 5).numpy()
    values = {
        "total_loss": torch.tensor(2.5),
        "step": 7,
        "epoch": 1,
        "position": 2,
        "best_weights": parts.strategy.weights(),
        "history": [{"epoch": 1, "step": 5, "validation": scores}],
        "data_wait_seconds": 0.25,
        "step_seconds": [0.5, 1.5],
        "not_exact": ["for a reason"],
    }
    for name, value in values.items():
        setattr(state, name, value)
    state.train_time.resume(3.0)
    state.evaluate_time.resume(4.0)
    return {*values, "scores", "train_time", "evaluate_time"}


def contents(saved):
    tensors = {**saved.weights, **saved.optimizer, **saved.progress}
    return saved.values, {name: (value.dtype, value.tolist()) for name, value in tensors.items()}


def test_a_saved_state_is_restored_whole(built):
    state, fresh = built(), built()
    before = contents(fresh.state_dict())
    assert changed(state) == {field.name for field in fields(TrainState)} - OF_THIS_PROCESS
    saved = state.state_dict()
    assert contents(saved) != before
    restored = built(saved)
    restored.load_state_dict(saved)
    assert contents(restored.state_dict()) == contents(saved)


def test_every_field_of_the_state_is_in_the_list(built):
    """Each field by itself changes what is saved, so none could be lost unnoticed."""
    empty = contents(built().state_dict())
    state = built()
    names = changed(state)
    torch.manual_seed(0)
    whole = contents(state.state_dict())
    for name in names:
        fresh = built()
        kept = getattr(state, name)
        setattr(state, name, getattr(fresh, name))
        assert contents(state.state_dict()) != whole, name
        setattr(state, name, kept)
    assert whole != empty
