"""Schedules and parameter groups."""

import pytest
import torch

from tensloradist.adapter import Adapter
from tensloradist.errors import UserError
from tensloradist.modes import AttentionShape
from tensloradist.spec import AdapterSpec, OptimizerSpec
from tensloradist.training.optimization import make_optimizer, make_schedule, parameter_groups, rate_factor

SHAPE = AttentionShape(8, 8, 2, 2)


def test_cosine_equals_torchs():
    spec = OptimizerSpec(learning_rate=5e-4, schedule="cosine", min_learning_rate=1e-6)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=5e-4)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=1e-6)
    for step in range(30):
        assert rate_factor(step, 30, spec) * 5e-4 == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warmup_rises_and_the_end_is_the_floor(schedule):
    spec = OptimizerSpec(learning_rate=1e-3, schedule=schedule, warmup=0.1, min_learning_rate=1e-5)
    rates = [rate_factor(step, 100, spec) for step in range(101)]
    assert rates[:11] == sorted(rates[:11]) and rates[0] > 0 and rates[10] == 1.0
    assert rates[100] == pytest.approx(1.0 if schedule == "constant" else 0.01)


def test_multipliers_reach_their_groups():
    adapter = Adapter(AdapterSpec(grouping="qkv_depth", ranks=2), SHAPE)
    head = [torch.nn.Parameter(torch.zeros(2))]
    spec = OptimizerSpec(learning_rate=1e-3, lr_multipliers={"core": 8, "factors": 2, "depth": 3, "head": 0.5})
    optimizer = make_optimizer(adapter, head, spec)
    schedule = make_schedule(optimizer, 10, spec)
    rates = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert rates == pytest.approx(
        {"core": 8e-3, "input": 2e-3, "output": 2e-3, "projection": 2e-3, "depth": 3e-3, "head": 5e-4}
    )
    optimizer.step()
    schedule.step()
    after = {g["name"]: g["lr"] / rates[g["name"]] for g in optimizer.param_groups}
    assert len({round(v, 12) for v in after.values()}) == 1, "the schedule scales all groups alike"
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in [*adapter.parameters(), *head]
    }


def test_a_multiplier_for_a_missing_group_is_refused():
    with pytest.raises(UserError, match="no parameter group 'core'"):
        parameter_groups(Adapter(AdapterSpec(method="lora"), SHAPE), [], OptimizerSpec(lr_multipliers={"core": 2}))
