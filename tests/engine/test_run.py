"""The loop on a toy model: windows, resuming, errors, its files."""

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import xtuner.engine
from xtuner.config import Builder
from xtuner.dataset.collate_fns import default_collate_fn, flat_collate_fn
from xtuner.engine import build
from xtuner.engine.build import build_run
from xtuner.engine.hooks.hook import MOMENTS, Hook
from xtuner.engine.run import RunOptions
from xtuner.errors import CheckpointError, ConfigError, TrainingError


def train(config, work_dir, **options):
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.train()
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def scalars(run):
    lines = (run.log_dir / "vis_data" / "scalars.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("batch_size", "counts"), [(2, 5), (5, 2), (10, 1)])
def test_the_split_of_an_update_into_batches_does_not_matter(toy_config, tmp_path, batch_size, counts):
    whole = train(toy_config(accumulative_counts=10, max_epochs=2, param_scheduler=[]), tmp_path / "a")
    options = {"batch_size": batch_size, "accumulative_counts": counts, "param_scheduler": []}
    split = train(toy_config(**options), tmp_path / "b")
    assert torch.allclose(weights(whole), weights(split), atol=1e-6)


def test_the_logged_loss_is_the_batchs_own_mean(toy_config, tmp_path):
    config = toy_config(accumulative_counts=5, lr=0.0)
    run = train(config, tmp_path)
    dataset, model = run.train_dataloader.dataset, run.model
    order = [i for batch in run.train_dataloader.batch_sampler for i in batch]  # of the second, last epoch
    means = [float((model.net(dataset[i]["x"]) ** 2).detach()) for i in order]
    logged = scalars(run)[-1]["loss"]  # smoothed over the ten last iterations
    assert logged == pytest.approx(sum(means) / 10, rel=1e-5)


@pytest.mark.parametrize("stop", [3, 6, 12, 15, 18])
@pytest.mark.parametrize(
    "options", [{}, {"accumulative_counts": 4}, {"batch_size": 3, "accumulative_counts": 2}]
)
def test_a_resumed_run_ends_in_the_same_bits(toy_config, tmp_path, stop, options):
    """Dropout on, in the middle of an epoch and of a window."""
    options = {"dropout": 0.3, "max_epochs": 2 if "batch_size" not in options else 6, **options}
    config = toy_config(keep=-1, **options)
    whole = train(config, tmp_path)
    checkpoint = str(tmp_path / f"iter_{stop}.pth")
    again = train(toy_config(keep=-1, **options), tmp_path / "again", resume=checkpoint)
    assert torch.equal(weights(whole), weights(again))
    first, second = (
        {line["iter"]: (line["loss"], line.get("grad_norm")) for line in scalars(run)}
        for run in (whole, again)
    )
    start = stop - stop % options.get("accumulative_counts", 1)
    assert second == {at: values for at, values in first.items() if at > start}


def test_bare_resume_skips_a_damaged_checkpoint(toy_config, tmp_path, caplog):
    whole = train(toy_config(), tmp_path)
    newest = tmp_path / "iter_20.pth"
    newest.write_bytes(newest.read_bytes()[:3000])
    again = train(toy_config(), tmp_path, resume=True)
    assert "iter_20.pth is damaged" in caplog.text
    assert "Resumed at iter 18 of 20" in caplog.text
    assert torch.equal(weights(whole), weights(again))


def test_the_work_dir(toy_config, tmp_path):
    run = train(toy_config(), tmp_path)
    stamp = run.timestamp
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        [
            f"{stamp}/replay.json",
            f"{stamp}/{stamp}.log",
            f"{stamp}/vis_data/{stamp}.json",
            f"{stamp}/vis_data/config.py",
            f"{stamp}/vis_data/scalars.json",
            "iter_18.pth",
            "iter_20.pth",
            "last_checkpoint",
            "toy.py",
        ]
    )
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_20.pth")
    assert list(scalars(run)[0]) == ["lr", "loss", "grad_norm", "time", "data_time", "iter", "memory", "step"]


def test_the_log_line(toy_config, tmp_path):
    run = train(toy_config(), tmp_path)
    text = (run.log_dir / f"{run.timestamp}.log").read_text()
    number = r"\d+\.\d{4}"
    assert re.search(
        rf"^\d{{4}}/\d\d/\d\d \d\d:\d\d:\d\d - mmengine - INFO - Iter\(train\) \[ 1/20\]  lr: 1\.0000e-03  "
        rf"eta: 0:00:\d\d  time: {number}  data_time: {number}  memory: \d+  "
        rf"loss: {number}  grad_norm: {number}$",
        text,
        re.M,
    )
    assert "Saving checkpoint at 3 iterations" in text


def test_lines_and_checkpoints_by_epoch(toy_config, tmp_path):
    options = {"default_hooks.checkpoint.by_epoch": True, "interval": 1, "log_processor": {"by_epoch": True}}
    run = train(toy_config(**options), tmp_path)
    text = (run.log_dir / f"{run.timestamp}.log").read_text()
    assert "Epoch(train)  [2][ 5/10]  lr: " in text
    assert "Saving checkpoint at 2 epochs" in text
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]


def test_an_update_that_is_not_finite_is_skipped_and_counted(toy_config, tmp_path, caplog, moment):
    run = train(toy_config(poison=(4,)), tmp_path)
    assert run.num_skipped_updates == 2  # once an epoch
    assert "the update is skipped (1 so far). Rows in this update: toy.json line 104" in caplog.text
    assert torch.isfinite(weights(run)).all()


def test_a_run_of_updates_that_are_not_finite_stops_and_names_the_rows(toy_config, tmp_path, moment):
    config = toy_config(poison=tuple(range(10)), max_nonfinite_updates=3)
    message = r"3 skipped updates in a row; the run stops\. Rows in this update: toy\.json line 10\d\."
    with pytest.raises(TrainingError, match=message):
        train(config, tmp_path)


def test_other_data_cannot_be_resumed(toy_config, tmp_path, monkeypatch):
    train(toy_config(), tmp_path)
    import engine_toys

    monkeypatch.setattr(engine_toys.Rows, "key", "others")
    with pytest.raises(CheckpointError, match="was trained on other data"):
        train(toy_config(), tmp_path, resume=True)


def test_weights_of_another_run_can_be_loaded(toy_config, tmp_path):
    first = train(toy_config(), tmp_path / "a")
    second = train(toy_config(lr=0.0, load_from=str(tmp_path / "a" / "iter_20.pth")), tmp_path / "b")
    assert torch.equal(weights(first), weights(second))


def test_a_resumed_run_keeps_as_many_checkpoints(toy_config, tmp_path):
    train(toy_config(max_epochs=1), tmp_path)
    (tmp_path / ".iter_10.pth.part").write_text("half")
    train(toy_config(max_epochs=1.2), tmp_path, resume=True)
    assert sorted(p.name for p in tmp_path.glob(".*") if p.is_file()) == []
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["iter_10.pth", "iter_12.pth"]


class Recorder:
    """A user's hook: no base class, only methods."""

    priority = "LOWEST"

    def __init__(self):
        self.calls = []

    def before_train(self, runner):
        self.calls.append("before_train")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.calls.append((runner.iter, runner.epoch, batch_idx, sorted(outputs)))

    def after_train_epoch(self, runner):
        self.calls.append(f"epoch {runner.epoch}")


def test_a_users_hook_is_called_at_every_moment(toy_config, tmp_path):
    config = toy_config(batch_size=5, accumulative_counts=3)
    config.custom_hooks = [{"type": Recorder}]
    run = train(config, tmp_path)
    (hook,) = [h for h in run.hooks if isinstance(h, Recorder)]
    assert hook.calls == [
        "before_train",
        (0, 0, 0, ["loss"]),
        (1, 0, 1, ["loss"]),
        "epoch 0",
        (2, 1, 0, ["grad_norm", "loss"]),
        (3, 1, 1, ["grad_norm", "loss"]),
        "epoch 1",
    ]


def test_every_moment_is_a_method_of_the_base():
    """The base class has a method for every moment, which a user's hook may call."""
    methods = {name for name, value in vars(Hook).items() if name.startswith(("before_", "after_"))}
    assert methods == set(MOMENTS)
    called = set()
    for file in Path(xtuner.engine.__file__).parent.rglob("*.py"):
        called |= set(re.findall(r"call_hooks\(\s*\"(\w+)\"", file.read_text()))
    assert called == set(MOMENTS)


def test_an_object_that_is_not_a_hook_is_an_error(toy_config, tmp_path):
    config = toy_config()
    config.custom_hooks = [{"type": dict}]
    with pytest.raises(ConfigError, match="dict is not a hook"):
        train(config, tmp_path)


def test_a_read_only_work_dir_is_one_clear_error(toy_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to the work dir"):
        train(toy_config(), tmp_path / "file")


def test_a_checkpoint_of_another_folder_is_not_removed(toy_config, tmp_path):
    """A run that resumes from it in another folder keeps its newest two and removes none of the other's."""
    train(toy_config(max_epochs=1), tmp_path / "a")
    before = sorted(p.name for p in (tmp_path / "a").glob("*.pth"))
    train(toy_config(), tmp_path / "b", resume=str(tmp_path / "a" / "iter_9.pth"))
    assert sorted(p.name for p in (tmp_path / "a").glob("*.pth")) == before == ["iter_10.pth", "iter_9.pth"]
    assert sorted(p.name for p in (tmp_path / "b").glob("*.pth")) == ["iter_18.pth", "iter_20.pth"]


def test_a_visualizer_that_shows_nothing_is_named(toy_config, tmp_path, monkeypatch):
    """Its error is reported, not that of closing it."""
    monkeypatch.setattr(sys.modules["engine_toys"], "Mute", type("Mute", (), {}), raising=False)
    config = toy_config(**{"visualizer.type": "engine_toys.Mute"})
    with pytest.raises(ConfigError, match=r"visualizer is a Mute, which has no open\(\): use Visualizer"):
        train(config, tmp_path)


def test_a_visualizer_without_a_type_is_the_default(toy_config, tmp_path):
    run = train(toy_config(**{"visualizer.name": "mine"}), tmp_path)
    assert len(scalars(run)) == 20


def test_an_update_that_begins_again_is_logged(toy_config, tmp_path, caplog):
    """Three of its four batches were read when the checkpoint was saved."""
    options = {"accumulative_counts": 4, "keep": -1}
    train(toy_config(**options), tmp_path)
    train(toy_config(**options), tmp_path / "again", resume=str(tmp_path / "iter_3.pth"))
    assert "Resumed at iter 0 of 20, saved at iter 3, within an update, which begins again" in caplog.text
    train(toy_config(**options), tmp_path / "again2", resume=str(tmp_path / "iter_12.pth"))
    assert "Resumed at iter 12 of 20, saved at iter 12\n" in caplog.text


def test_data_without_a_sampler_are_shuffled(toy_config, tmp_path, caplog):
    """The default sampler is used, and logged."""
    written = weights(train(toy_config(), tmp_path / "a"))
    assert torch.equal(
        written, weights(train(toy_config(**{"train_dataloader.sampler": None}), tmp_path / "b"))
    )
    assert "train_dataloader.sampler is not set: items are shuffled" in caplog.text


def test_settings_of_the_loader_that_change_nothing_are_logged(toy_config, tmp_path, caplog):
    config = toy_config()
    config.train_dataloader |= {
        "num_workers": 1,
        "persistent_workers": True,
        "worker_init_fn": torch.manual_seed,
    }
    build_run(config, RunOptions(work_dir=str(tmp_path)))
    assert "persistent_workers is not used" in caplog.text
    assert "worker_init_fn: random seeds that it sets are replaced" in caplog.text


@pytest.mark.parametrize("given", [None, default_collate_fn, {"type": default_collate_fn, "pad_index": 3}])
def test_batches_of_the_default_collate_fn_are_flat(given):
    """With the default or the configured default_collate_fn, samples are packed without padding."""
    run = types.SimpleNamespace(builder=Builder())
    assert build.build_collate(run, given, "train_dataloader.collate_fn") is flat_collate_fn


def test_a_visualizer_that_cannot_be_closed_hides_no_error(toy_config, tmp_path, monkeypatch, caplog):
    """The lock of the work dir is released in any case."""
    from xtuner.engine.visual import Visualizer

    class Broken(Visualizer):
        def add_scalars(self, scalars, step):
            raise TrainingError("no room for scalars")

        def close(self):
            super().close()
            raise OSError("no room to close")

    monkeypatch.setattr(sys.modules["engine_toys"], "Broken", Broken, raising=False)
    with pytest.raises(TrainingError, match="no room for scalars"):
        train(toy_config(**{"visualizer.type": "engine_toys.Broken"}), tmp_path)
    assert "The visualizer could not be closed: OSError: no room to close" in caplog.text
    assert train(toy_config(), tmp_path).iter == 20
