"""EarlyStoppingHook, with losses of validation that are given."""

from __future__ import annotations

import math

import pytest
import torch

from xtuner.engine.hooks import EarlyStoppingHook
from xtuner.errors import ConfigError

from .test_validation import OTHER, Falling, train


def config_with(toy_config, losses, accumulative_counts=1, **hook):
    """A run of ten validations, one every second iteration, with these losses."""
    options = {"val_dataloader": {"dataset": OTHER}, "accumulative_counts": accumulative_counts}
    config = toy_config(interval=-1, **options)
    config.train_cfg = {"max_iters": 20, "val_interval": 2}
    stop = {"type": EarlyStoppingHook, "monitor": "loss", **hook}
    config.custom_hooks = [{"type": Falling, "losses": losses}, stop]
    return config


def ends(folder):
    return (folder / "last_checkpoint").read_text().rpartition("/")[2]


@pytest.mark.parametrize(
    ("losses", "hook", "end"),
    [
        ([3, 2, 2.5, 2.1, 1] + 5 * [1], {"patience": 2}, "iter_8.pth"),
        ([3, 2.95, 2.8, 2.75] + 6 * [2.7], {"patience": 1}, "iter_4.pth"),
        ([3, 2.95, 2.8, 2.75] + 6 * [2.7], {"patience": 1, "min_delta": 0.01}, "iter_12.pth"),
        ([3, 2, 4, 5] + 6 * [5], {"patience": 1, "rule": "greater"}, "iter_4.pth"),
        ([3, math.nan] + 8 * [1], {}, "iter_4.pth"),
        ([math.nan, math.nan, 2.5, *7 * [1]], {"check_finite": False, "patience": 3}, "iter_14.pth"),
        ([3, 2, 0.4] + 7 * [0.1], {"stopping_threshold": 0.5}, "iter_6.pth"),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], {"patience": 1}, "iter_20.pth"),
    ],
)
def test_a_run_ends_when_validation_says_so(toy_config, tmp_path, losses, hook, end):
    """The last checkpoint is of the iteration at which it ended."""
    train(config_with(toy_config, losses, **hook), tmp_path)
    assert ends(tmp_path) == end


def test_an_update_is_finished_first(toy_config, tmp_path):
    """Validation in the middle of an update ends the run at its end."""
    train(config_with(toy_config, [3.0] * 10, accumulative_counts=3, patience=1), tmp_path)
    assert ends(tmp_path) == "iter_6.pth"


def test_a_resumed_run_ends_at_the_same_iteration(toy_config, tmp_path):
    """The counter is in the checkpoint; a run that had ended trains nothing more."""
    losses = [3.0, 2.0, *8 * [2.0]]
    train(config_with(toy_config, losses, patience=3), tmp_path / "whole")
    assert ends(tmp_path / "whole") == "iter_10.pth"
    first = config_with(toy_config, losses, patience=3)
    first.train_cfg["max_iters"] = 6
    train(first, tmp_path / "parts")
    train(config_with(toy_config, losses, patience=3), tmp_path / "parts", resume=True)
    assert ends(tmp_path / "parts") == "iter_10.pth"
    whole, parts = (torch.load(tmp_path / f / "iter_10.pth", weights_only=True) for f in ("whole", "parts"))
    assert all(torch.equal(whole["state_dict"][name], value) for name, value in parts["state_dict"].items())
    train(config_with(toy_config, losses, patience=3), tmp_path / "parts", resume=True)
    assert ends(tmp_path / "parts") == "iter_10.pth"


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (
            {"monitor": "accuracy"},
            "EarlyStoppingHook.monitor is 'accuracy', which validation does not measure",
        ),
        ({"rule": "lower"}, "EarlyStoppingHook.rule is 'lower'; use 'less' or 'greater'"),
        ({"patience": 0}, "EarlyStoppingHook.patience is 0: write 1 or more"),
    ],
)
def test_a_setting_that_means_nothing_is_an_error(toy_config, tmp_path, hook, message):
    with pytest.raises(ConfigError, match=message):
        train(config_with(toy_config, 10 * [1.0], **hook), tmp_path)


def test_it_needs_validation(toy_config, tmp_path):
    config = config_with(toy_config, 10 * [1.0])
    config.val_dataloader = None
    with pytest.raises(ConfigError, match=r"EarlyStoppingHook\.monitor needs validation"):
        train(config, tmp_path)
