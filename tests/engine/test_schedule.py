"""The learning rate as a function of the iteration."""

import pytest
import torch

from xtuner.engine.schedule import ConstantLR, CosineAnnealingLR, LinearLR, value_at

WARMUP = {"start_factor": 1e-5, "by_epoch": True, "begin": 0, "convert_to_iter_based": True}


def usual(max_epochs, epoch_length):
    warm = 0.03 * max_epochs
    made = [
        LinearLR(end=warm, **WARMUP),
        CosineAnnealingLR(eta_min=0.0, by_epoch=True, begin=warm, end=max_epochs, convert_to_iter_based=True),
    ]
    return [s.in_iters(epoch_length) for s in made]


def test_the_rate_of_a_tutorial_log_line():
    """`Iter(train) [ 10/720]  lr: 9.0001e-05` with lr 2e-4 and 240 iterations an epoch."""
    assert f"{value_at(usual(3, 240), 2e-4, 9, 240):.4e}" == "9.0001e-05"


def test_warm_up_then_cosine_equals_torch():
    schedules = usual(3, 50)  # warm-up ends at int(0.09 * 50) = 4
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-5, 1.0, total_iters=3)
    ours = [value_at(schedules, 0.1, t, 50) for t in range(150)]
    theirs = []
    for _ in range(4):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm.step()
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=146, eta_min=0.0)
    for _ in range(146):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_constant_returns_to_the_rate_at_its_end():
    schedule = [ConstantLR(factor=0.5, by_epoch=False, begin=1, end=4)]
    assert [value_at(schedule, 1.0, t, 10) for t in range(6)] == [1.0, 0.5, 0.5, 1.0, 1.0, 1.0]


def test_a_schedule_by_epoch_changes_with_epochs():
    schedule = [LinearLR(start_factor=0.5, end_factor=1.0, by_epoch=True, begin=0, end=3)]
    assert [value_at(schedule, 1.0, t, 2) for t in range(8)] == [0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0, 1.0]


def test_the_floor_of_a_cosine():
    schedule = [CosineAnnealingLR(eta_min=0.2, by_epoch=False, begin=0, end=5, T_max=4)]
    assert [round(value_at(schedule, 1.0, t, 9), 6) for t in (0, 2, 4, 7)] == [1.0, 0.6, 0.2, 0.2]


def test_warm_up_shorter_than_an_iteration_does_not_change_the_rate():
    assert value_at(usual(1, 5), 1.0, 0, 5) == 1.0
