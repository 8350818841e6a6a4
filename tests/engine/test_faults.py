"""Disturbed runs stop, resume or report the reason; nothing is lost."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from xtuner.engine.build import build_run
from xtuner.engine.checkpoints.background import BackgroundWriter, Snapshots
from xtuner.engine.checkpoints.files import find_fault, find_whole, load_checkpoint, save_checkpoint
from xtuner.engine.run import RunOptions
from xtuner.errors import CheckpointError, ConfigError, TrainingError

SOAK = Path(__file__).parents[1] / "soak"


def train(config, work_dir, **options):
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.train()
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.slow
def test_killed_runs_lose_nothing():
    """Fifteen kills in real processes, every second run with saves in the background; 200 in `make soak`."""
    words = [sys.executable, str(SOAK / "kills.py"), "--kills", "15"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == 15
    assert counts["other_weights"] == counts["newest_damaged"] == counts["nothing_loads"] == 0


def test_every_flipped_byte_is_detected_or_has_no_effect(tmp_path):
    """Each byte of a small checkpoint, one after the other."""
    path = tmp_path / "iter_1.pth"
    state = {"state_dict": {"w": torch.arange(8.0)}, "meta": {"iter": 1}}
    save_checkpoint(state, path)
    whole = path.read_bytes()
    missed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        if find_fault(path) is None:
            try:
                found = load_checkpoint(path, check=True)
            except CheckpointError:  # torch reads some wrong headers now so, now so
                continue
            assert torch.equal(found["state_dict"]["w"], state["state_dict"]["w"]), place
            assert found["meta"] == state["meta"], place
            missed += 1
    assert missed < len(whole)  # what only fills up the space between the parts of the archive


@pytest.mark.parametrize("length", [0, 1, 0.5, 0.99, -1])
def test_every_truncation_is_detected(tmp_path, length):
    path = tmp_path / "iter_1.pth"
    save_checkpoint({"state_dict": {"w": torch.arange(8.0)}}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, check=True)


def test_a_changed_config_shows_its_differences(toy_config, tmp_path, caplog):
    train(toy_config(max_epochs=1), tmp_path)
    train(toy_config(max_epochs=1), tmp_path, resume=True)
    assert "not the one" not in caplog.text
    train(toy_config(max_epochs=2, lr=0.5), tmp_path, resume=True)
    changes = "\n-max_epochs = 1\n-lr = 1e-2\n+max_epochs = 2\n+lr = 0.5"
    assert f"iter_10.pth was saved with:{changes}" in caplog.text


def test_changed_data_are_used_only_on_request(toy_config, tmp_path, monkeypatch, caplog):
    train(toy_config(max_epochs=1), tmp_path)
    import engine_toys

    monkeypatch.setattr(engine_toys.Rows, "key", "others")
    with pytest.raises(CheckpointError, match="set resume_on_other_data = True to continue at the same iter"):
        train(toy_config(), tmp_path, resume=True)
    run = train(toy_config(resume_on_other_data=True), tmp_path, resume=True)
    assert "the run goes on at the same iteration of these" in caplog.text
    assert "Resumed at iter 10 of 20" in caplog.text
    assert run.iter == 20


class At:
    """A user's hook that does something at one iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action = iteration, action

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.action(runner, data_batch)


def with_hook(config, iteration, action):
    config.custom_hooks = [{"type": lambda: At(iteration, action)}]
    return config


def spoil(value):
    """Change the rows of a batch so that the loss is `value` times as large, or not finite."""
    return lambda runner, batch: batch["data"]["x"].mul_(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("iteration", [7, 19])
def test_a_batch_that_is_not_finite_is_skipped(toy_config, tmp_path, caplog, value, iteration, moment):
    """Also in the last update; the checkpoint after it has counted it."""
    run = train(with_hook(toy_config(), iteration, spoil(value)), tmp_path)
    assert run.max_iters == 20
    assert run.num_skipped_updates == 1
    assert f"iter {iteration + 1}: the gradient norm is" in caplog.text
    assert load_checkpoint(find_whole(tmp_path))["resume"]["num_skipped_updates"] == 1
    assert torch.isfinite(weights(run)).all()


class Slow:
    """A hook that makes some updates slow."""

    def __init__(self, *iterations):
        self.iterations = iterations

    def before_update(self, runner):
        if runner.iter in self.iterations:
            time.sleep(0.3)


def test_slow_updates_are_named_with_their_rows(toy_config, tmp_path, caplog, monkeypatch):
    """The first few; the rest are counted. The slow start of a run is none."""
    monkeypatch.setattr("xtuner.engine.slow_updates.LEAST_SECONDS", 0.2)
    monkeypatch.setattr("xtuner.engine.runner.MAX_SLOW_NAMED", 1)
    config = toy_config()
    config.custom_hooks = [{"type": lambda: Slow(0, 1, 15, 18)}]
    train(config, tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    number = r"\d+\.\d+"
    wanted = rf"iter 16: the update took 0\.\d s, usual are {number} s; 0\.0 s of it were a wait for data\. "
    assert re.match(wanted + r"Rows of this process: toy\.json line 10\d", lines[0])
    assert lines[1:] == ["2 updates took far longer than usual; the first 1 are named above"]


def test_a_spike_is_skipped_and_its_rows_named(toy_config, tmp_path, caplog):
    """The weights equal those of a run without that update; without the option nothing is skipped."""
    spiked = {"train_cfg.spike_ratio": 20.0, "param_scheduler": []}
    run = train(with_hook(toy_config(**spiked), 15, spoil(100)), tmp_path / "a")
    assert run.num_skipped_updates == 1
    assert "times the usual" in caplog.text
    assert "Rows in this update: toy.json line 10" in caplog.text
    calm = train(with_hook(toy_config(param_scheduler=[]), 15, spoil(100)), tmp_path / "b")
    assert calm.num_skipped_updates == 0
    assert not torch.equal(weights(run), weights(calm))


def test_spikes_in_a_row_stop_the_run(toy_config, tmp_path):
    config = toy_config(**{"train_cfg.spike_ratio": 20.0, "max_nonfinite_updates": 3})
    config.custom_hooks = [{"type": lambda n=n: At(n, spoil(100))} for n in (15, 16, 17)]
    with pytest.raises(TrainingError, match=r"times the usual .*, the last of 3 skipped updates in a row"):
        train(config, tmp_path)


def test_the_median_loss_is_known_after_resuming(toy_config, tmp_path):
    """A spike directly after the checkpoint is reported as in the undisturbed run."""
    options = {"train_cfg.spike_ratio": 20.0, "dropout": 0.2, "keep": -1}
    whole = train(with_hook(toy_config(**options), 15, spoil(100)), tmp_path / "a")
    first = str(tmp_path / "a" / "iter_15.pth")
    again = train(with_hook(toy_config(**options), 15, spoil(100)), tmp_path / "b", resume=first)
    assert (whole.num_skipped_updates, again.num_skipped_updates) == (1, 1)
    assert torch.equal(weights(whole), weights(again))


def test_an_overflow_in_16_bits_halves_the_scale_without_an_error(toy_config, tmp_path, caplog, monkeypatch):
    """Consecutive ones beyond the limit of skipped updates do not stop the run."""
    monkeypatch.setattr("xtuner.engine.optim.compute_dtype", lambda dtype, device: dtype)
    scale = {"loss_scale": {"init_scale": 2.0**24, "growth_interval": 1000}, "dtype": "float16"}
    amp = {f"optim_wrapper.{name}": value for name, value in scale.items()}
    config = toy_config(**{"optim_wrapper.type": "xtuner.engine.optim.AmpOptimWrapper", **amp})
    start = weights(train(toy_config(lr=0.0), tmp_path / "start"))
    run = train(config, tmp_path / "run")
    overflows = caplog.text.count("The 16-bit loss scale was too high and is lowered")
    assert overflows > run.max_nonfinite_updates
    assert run.optim_wrapper.scaler.get_scale() == 2.0 ** (24 - overflows)
    steps = {int(slots["step"]) for slots in run.optim_wrapper.optimizer.state.values()}
    assert steps == {run.max_iters - overflows}
    assert (run.num_skipped_updates, run.train_loop.skipped_in_a_row) == (0, 0)
    assert not torch.equal(weights(run), start)
    saved = load_checkpoint(find_whole(tmp_path / "run"))
    assert saved["resume"]["num_skipped_updates"] == 0
    assert saved["optimizer"]["scaler"]["scale"] == 2.0 ** (24 - overflows)


def test_a_backend_that_cannot_skip_updates_is_an_error(toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr("xtuner.engine.backend.Backend.can_drop_gradients", False)
    with pytest.raises(ConfigError, match="DeepSpeed cannot skip a finite update"):
        train(toy_config(**{"train_cfg.spike_ratio": 3.0}), tmp_path)


def test_a_signal_interrupts_validation(toy_config, tmp_path, caplog):
    """The checkpoint of the iteration is written, and validation is not."""

    class Stop:
        def before_val_epoch(self, runner):
            os.kill(os.getpid(), 15)

    config = toy_config(val_dataloader={"dataset": {"type": "engine_toys.Rows"}}, interval=-1)
    config.custom_hooks = [{"type": Stop}]
    with pytest.raises(SystemExit) as end:
        train(config, tmp_path)
    assert end.value.code == 143
    assert "Validation is broken off" in caplog.text
    assert [p.name for p in tmp_path.glob("*.pth")] == ["iter_10.pth"]


@pytest.mark.parametrize("number", [2, 10, 15])
def test_a_signal_while_a_file_is_written_in_the_background(toy_config, tmp_path, number):
    """The file is complete when the run has ended, and the run resumes from it."""
    options = {"default_hooks.checkpoint.save_async": True, "interval": 5, "dropout": 0.2}
    whole = train(toy_config(**options), tmp_path / "a")
    send = lambda runner, batch: os.kill(os.getpid(), number)  # noqa: E731
    with pytest.raises(SystemExit) as end:
        train(with_hook(toy_config(**options), 4, send), tmp_path / "b")
    assert end.value.code == 128 + number
    assert threading.active_count() == 1 or all(t.name != "checkpoint" for t in threading.enumerate())
    assert find_whole(tmp_path / "b").name == "iter_5.pth"
    assert torch.equal(weights(train(toy_config(**options), tmp_path / "b", resume=True)), weights(whole))


def test_checkpoints_written_in_the_background_are_the_same(toy_config, tmp_path):
    plain = train(toy_config(dropout=0.2, keep=2), tmp_path / "a")
    options = {"default_hooks.checkpoint.save_async": True, "dropout": 0.2, "keep": 2}
    run = train(toy_config(**options), tmp_path / "b")
    assert torch.equal(weights(plain), weights(run))
    files = [sorted(p.name for p in (tmp_path / n).glob("*.pth")) for n in "ab"]
    assert files[0] == files[1] == ["iter_18.pth", "iter_20.pth"]
    for name in files[0]:
        one, other = (load_checkpoint(tmp_path / n / name, check=True) for n in "ab")
        assert str(one["optimizer"]) == str(other["optimizer"])
        assert all(torch.equal(one["state_dict"][n], t) for n, t in other["state_dict"].items())


def test_an_update_waits_until_the_weights_are_copied(toy_config, tmp_path, monkeypatch):
    """A slow copy still has the weights of its iteration."""

    train(toy_config(dropout=0.2, keep=-1), tmp_path / "a")
    take = Snapshots.take
    monkeypatch.setattr(Snapshots, "take", lambda self, state: (time.sleep(0.1), take(self, state))[1])
    options = {"default_hooks.checkpoint.save_async": True, "dropout": 0.2, "keep": -1}
    train(toy_config(**options), tmp_path / "b")
    for path in (tmp_path / "a").glob("*.pth"):
        one, other = (load_checkpoint(tmp_path / n / path.name) for n in "ab")
        assert str(one["optimizer"]) == str(other["optimizer"])
        assert all(torch.equal(one["state_dict"][n], t) for n, t in other["state_dict"].items())


def test_a_failed_write_in_the_background_stops_the_run(toy_config, tmp_path, monkeypatch):
    """It stops at the next iteration; the checkpoint before is complete."""
    import xtuner.engine.hooks.checkpoint as hook

    def fail_at_nine(state, path, *args, **kwargs):
        if path.name == "iter_9.pth":
            raise CheckpointError("the disk is full")
        save_checkpoint(state, path, *args, **kwargs)

    monkeypatch.setattr(hook, "save_checkpoint", fail_at_nine)
    config = toy_config(**{"default_hooks.checkpoint.save_async": True})
    slow = lambda runner, batch: time.sleep(0.2)  # noqa: E731
    with pytest.raises(CheckpointError, match="the disk is full"):
        train(with_hook(config, 9, slow), tmp_path)
    assert find_whole(tmp_path).name == "iter_6.pth"


def test_never_two_writes_at_once_and_each_has_its_own_state():
    writer, running, seen = BackgroundWriter(), [], []
    tensor = torch.zeros(3)

    def write(state):
        running.append(1)
        assert len(running) == 1
        time.sleep(0.05)
        seen.append(state["w"].tolist())
        running.pop()

    for number in range(4):
        tensor.fill_(number)
        writer.write({"w": tensor}, write)
        writer.wait_for_copy()
        tensor.fill_(-1)
    writer.wait()
    assert seen == [[float(n)] * 3 for n in range(4)]


def test_tied_tensors_stay_tied_in_a_copy():
    shared = torch.zeros(2, 3)
    copied = Snapshots().take({"a": shared, "b": [shared, shared.t()], "c": "text"})
    assert copied["a"].data_ptr() == copied["b"][0].data_ptr() != shared.data_ptr()
    assert torch.equal(copied["b"][1], shared.t())
    assert copied["c"] == "text"


def test_resuming_after_a_kill_is_logged(toy_config, tmp_path, caplog):
    """Incomplete files of a killed run are removed and named."""
    caplog.set_level(logging.INFO, "xtuner")
    train(toy_config(max_epochs=1), tmp_path)
    (tmp_path / ".iter_12.pth.part").write_bytes(b"half")
    train(toy_config(), tmp_path, resume=True)
    assert "iter_12.pth.part, which an earlier run has not finished" in caplog.text
    assert not list(tmp_path.glob(".*.part"))


def test_two_runs_do_not_write_in_one_work_dir(toy_config, tmp_path):
    """The second stops before it writes; the results of the first are not changed."""
    first = build_run(toy_config(), RunOptions(work_dir=str(tmp_path)))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=rf"the work dir .* is in use by process {os.getpid()} on "):
        build_run(toy_config(), RunOptions(work_dir=str(tmp_path)))
    assert sorted(tmp_path.iterdir()) == before
    first.train()
    assert train(toy_config(), tmp_path, resume=True).iter == 20


def test_two_runs_do_not_write_their_checkpoints_in_one_folder(toy_config, tmp_path):
    """Work dirs of one name share a folder of `out_dir`."""
    options = {"default_hooks.checkpoint.out_dir": str(tmp_path / "out")}
    runs = [build_run(toy_config(**options), RunOptions(work_dir=str(tmp_path / n / "w"))) for n in "ab"]
    with runs[0].held:
        runs[0].call_hooks("before_run")
        with pytest.raises(ConfigError, match=r"CheckpointHook.out_dir .*out/w is in use by process"):
            runs[1].train()
    assert train(toy_config(**options), tmp_path / "b" / "w").iter == 20


def test_a_damaged_last_checkpoint_is_logged_and_skipped(toy_config, tmp_path, caplog):
    """If the file `last_checkpoint` is damaged, the newest checkpoint by time is used."""
    train(toy_config(), tmp_path)
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe\x00")
    assert train(toy_config(max_epochs=3), tmp_path, resume=True).iter == 30
    assert "last_checkpoint is damaged: the newest checkpoint is taken by its time" in caplog.text
    assert "Resumed at iter 20 of 30" in caplog.text


def test_a_full_disk_stops_the_log_but_not_the_run(toy_config, tmp_path, caplog, capsys):
    """One line each of the log and the scalars, and no traceback."""
    run = build_run(toy_config(), RunOptions(work_dir=str(tmp_path)))
    (run.log_dir / "vis_data").mkdir()
    for name in (f"{run.timestamp}.log", "vis_data/scalars.json"):
        (run.log_dir / name).symlink_to("/dev/full")
    run.train()
    said = [m for m in caplog.messages if "cannot be written" in m]
    assert [m.partition(str(run.log_dir))[2] for m in said] == [
        f"/{name} cannot be written: No space left on device; the run goes on without it"
        for name in (f"{run.timestamp}.log", "vis_data/scalars.json")
    ]
    assert "Traceback" not in capsys.readouterr().err
    assert find_fault(tmp_path / "iter_20.pth") is None


def test_a_new_run_in_the_work_dir_of_an_earlier_one_is_logged(toy_config, tmp_path, caplog):
    """The user may have wanted to resume."""
    train(toy_config(), tmp_path)
    assert "earlier run" not in caplog.text
    train(toy_config(), tmp_path, resume=True)
    assert "earlier run" not in caplog.text
    train(toy_config(), tmp_path)
    assert "iter_20.pth is of an earlier run, and this one begins anew in the same work dir" in caplog.text
