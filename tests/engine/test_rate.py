"""The rate finder: its curve, its suggestion, and that it leaves nothing behind."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from xtuner.engine import rate
from xtuner.engine.build import build_run
from xtuner.engine.rate import Tried, advise, find_rate, try_rates
from xtuner.engine.run import RunOptions


def curve(losses):
    return [Tried(10 ** (-6 + i / 4), loss, loss) for i, loss in enumerate(losses)]


def test_the_steepest_fall_before_the_least_loss_is_suggested():
    """The first means are left out; so is the rise behind the minimum."""
    tried = curve([9, 1, 9, 1, 9, 4, 3.9, 3.5, 2.5, 2.4, 2.3, 5, 1e9])
    found = advise(tried)
    assert found is not None
    assert (found.steepest, found.tenth) == (tried[7].rate, tried[10].rate / 10)


@pytest.mark.parametrize("losses", [[2.0] * 20, [2.0 + i for i in range(20)], [2.0, math.nan], []])
def test_a_loss_that_does_not_fall_suggests_nothing(losses):
    assert advise(curve(losses)) is None


@pytest.mark.parametrize("counts", [1, 3])
def test_rates_rise_until_the_loss_diverges(toy_config, tmp_path, counts):
    """By one factor; the loss of every update is finite but the last; groups keep their ratios."""
    run = build_run(toy_config(accumulative_counts=counts), RunOptions(str(tmp_path)))
    tried = list(try_rates(run))
    assert 20 < len(tried) <= 100
    factors = {round(b.rate / a.rate, 6) for a, b in itertools.pairwise(tried)}
    assert factors == {round((rate.LAST / rate.FIRST) ** (1 / 99), 6)}
    assert tried[0].loss == tried[0].mean
    assert run.optim_wrapper.param_groups[0]["lr"] == tried[-1].rate
    run.held.close()


def test_rows_that_are_not_numbers_end_it(toy_config, tmp_path):
    run = build_run(toy_config(poison=tuple(range(10))), RunOptions(str(tmp_path)))
    (only,) = try_rates(run)
    assert math.isnan(only.loss)
    run.held.close()


def test_a_picture_and_numbers_are_all_that_is_left(toy_config, tmp_path):
    run = build_run(toy_config(), RunOptions(str(tmp_path)))
    out: list[str] = []
    found = find_rate(run, out.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["find_lr.json", "find_lr.svg"]
    numbers = json.loads((tmp_path / "find_lr.json").read_text())
    assert found is not None
    assert numbers["suggested"] == {"steepest": found.steepest, "tenth": found.tenth}
    picture = (tmp_path / "find_lr.svg").read_text()
    assert picture.count("<polyline") == 2
    assert out[0].split() == ["lr", "loss", "smoothed"]
    assert out[-2].startswith(f"suggested: lr = {found.steepest:.1e}, at which the loss falls most steeply")
    assert out[-1] == f"Curve: {tmp_path / 'find_lr.svg'}"


def test_a_training_is_the_same_after_it(toy_config, tmp_path):
    """Its folder is its own."""
    weights = []
    for search in (False, True):
        if search:
            find_rate(build_run(toy_config(), RunOptions(str(tmp_path / "b" / "find_lr"))), print)
        run = build_run(toy_config(), RunOptions(str(tmp_path / ("b" if search else "a"))))
        run.train()
        weights.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    assert torch.equal(*weights)
    assert not list(Path(tmp_path / "b" / "find_lr").glob("*.pth"))
