"""Validation measures the mean loss over supervised tokens, without an effect on training."""

import json
import math

import pytest
import torch

from xtuner.engine.batches.validation import ValBatches
from xtuner.engine.build import build_run
from xtuner.engine.run import RunOptions
from xtuner.errors import ConfigError

OTHER = {"type": "engine_toys.Rows"}


def train(config, work_dir, **options):
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.train()
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def validations(run):
    lines = (run.log_dir / "vis_data" / "scalars.json").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "val/loss" in line]


def loss_by_hand(run, dataset):
    """The losses of single rows, weighted by their number of items with loss."""
    rows = [dataset[i] for i in range(len(dataset))]
    with torch.no_grad():
        total = sum(float(run.model.eval().net(row["x"]) ** 2) * row["count"] for row in rows)
    return total / sum(row["count"] for row in rows)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_the_loss_is_the_mean_over_supervised_tokens_for_any_batches(toy_config, tmp_path, batch_size):
    """Dropout is off."""
    config = toy_config(
        dropout=0.5, val_dataloader={"dataset": OTHER, "batch_size": batch_size}, custom_hooks=[]
    )
    run = train(config, tmp_path)
    expected = loss_by_hand(run, run.val_loop.dataloader.dataset)
    (_, last) = validations(run)
    assert last["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert last["val/perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert (last["iter"], last["step"]) == (20, 20)


def test_the_log_line(toy_config, tmp_path):
    run = train(toy_config(val_dataloader={"dataset": OTHER}), tmp_path)
    text = (run.log_dir / f"{run.timestamp}.log").read_text()
    assert "Iter(val) [10/20]  loss: " in text


def test_training_ends_in_the_same_bits_with_validation_as_without(toy_config, tmp_path):
    """Dropout on, in the middle of windows."""
    options = {"dropout": 0.3, "accumulative_counts": 4}
    without = train(toy_config(**options), tmp_path / "a")
    options |= {"val_dataloader": {"dataset": OTHER}, "train_cfg.val_interval": 1}
    assert torch.equal(weights(without), weights(train(toy_config(**options), tmp_path / "b")))


@pytest.mark.parametrize(
    ("train_cfg", "iters"),
    [
        ({"max_epochs": 2}, [10, 20]),
        ({"max_epochs": 2, "by_epoch": True, "val_interval": 2}, [20]),
        ({"type": "mmengine.runner.EpochBasedTrainLoop", "max_epochs": 2, "val_interval": 1}, [10, 20]),
        ({"type": "mmengine.runner.IterBasedTrainLoop", "max_iters": 9, "val_interval": 4}, [4, 8, 9]),
        ({"max_iters": 9, "val_interval": 3, "val_begin": 5}, [6, 9]),
        ({"max_epochs": 3, "val_begin": 15}, [20, 30]),
        ({"max_epochs": 3, "by_epoch": True, "val_begin": 2}, [20, 30]),
    ],
)
def test_validation_comes_every_interval_and_at_the_end(toy_config, tmp_path, train_cfg, iters):
    """Without an interval, after each epoch; `val_begin` is in iterations unless by_epoch."""
    options = {"val_dataloader": {"dataset": OTHER}, "val_cfg": {"type": "ValLoop"}}
    config = toy_config(**options)
    config.train_cfg = train_cfg
    assert [line["iter"] for line in validations(train(config, tmp_path))] == iters


def test_every_item_is_counted_once_on_any_number_of_processes():
    for size in (1, 2, 3, 4):
        loaders = [ValBatches(range(7), 2, list, rank, size) for rank in range(size)]
        assert len({len(loader) for loader in loaders}) == 1
        counted = [item for loader in loaders for batch, counts in loader if counts for item in batch]
        assert sorted(counted) == list(range(7))


def test_rows_cannot_be_held_out_of_some_data(toy_config, tmp_path):
    with pytest.raises(ConfigError, match="has no data set that can hold rows out"):
        train(toy_config(val_dataloader={"held_out": 0.2}), tmp_path)


class Falling:
    """A user's hook that replaces the losses of validation by given ones in turn."""

    priority = "VERY_HIGH"

    def __init__(self, losses):
        self.losses = list(losses)

    def after_val_epoch(self, runner, metrics):
        metrics["loss"] = self.losses[runner.iter // 2]


def best(folder):
    return sorted(p.name for p in folder.glob("best_*"))


def with_best(toy_config, losses, **options):
    options |= {"val_dataloader": {"dataset": OTHER}, "default_hooks.checkpoint.save_best": "loss"}
    config = toy_config(**options)
    config.train_cfg = {"max_iters": 2 * len(losses), "val_interval": 2}
    config.custom_hooks = [{"type": Falling, "losses": losses}]
    return config


def test_the_best_checkpoint_is_kept(toy_config, tmp_path):
    """It holds only weights; --resume ignores it."""
    train(with_best(toy_config, [3.0, 1.0, math.nan, 2.0], interval=-1), tmp_path)
    assert best(tmp_path) == ["best_loss_iter_4.pth"]
    found = torch.load(tmp_path / "best_loss_iter_4.pth", weights_only=True)
    assert (found["meta"]["iter"], "optimizer" in found) == (4, False)
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_8.pth")


def test_a_resumed_run_knows_the_best(toy_config, tmp_path):
    """The best is of the iteration that is resumed."""
    train(with_best(toy_config, [3.0, 1.0], interval=4), tmp_path)
    train(with_best(toy_config, [3.0, 1.0, 2.0], interval=4), tmp_path, resume=str(tmp_path / "iter_4.pth"))
    assert best(tmp_path) == ["best_loss_iter_4.pth"]
    train(with_best(toy_config, [3, 1, 2, 0.5], interval=4), tmp_path, resume=str(tmp_path / "iter_6.pth"))
    assert best(tmp_path) == ["best_loss_iter_8.pth"]


def test_a_larger_value_is_better_by_the_rule(toy_config, tmp_path):
    config = with_best(toy_config, [3.0, 1.0], **{"default_hooks.checkpoint.rule": "greater"})
    train(config, tmp_path)
    assert best(tmp_path) == ["best_loss_iter_2.pth"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_best": "los"}, "save_best is 'los', which validation does not measure. Did you mean 'loss'"),
        ({"save_best": "loss", "rule": "lower"}, "rule is 'lower'; use 'less' or 'greater'"),
    ],
)
def test_a_best_that_nothing_measures_is_an_error(toy_config, tmp_path, options, message):
    config = toy_config(val_dataloader={"dataset": OTHER})
    config.default_hooks["checkpoint"] |= options
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path)


def test_save_best_needs_validation(toy_config, tmp_path):
    with pytest.raises(ConfigError, match="save_best needs validation: give val_dataloader"):
        train(toy_config(**{"default_hooks.checkpoint.save_best": "auto"}), tmp_path)
