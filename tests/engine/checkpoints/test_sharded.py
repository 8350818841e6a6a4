"""Sharded checkpoints of one process: what they hold, what is found to be damaged, how runs use them.

Those of several processes: tests/parallel/test_sharded.py.
"""

import io
import os
import pickle
import resource
import shutil
from pathlib import PurePosixPath

import pytest
import torch

from xtuner.engine.build import build_run
from xtuner.engine.checkpoints.files import find_fault, find_last, find_whole, load_checkpoint
from xtuner.engine.checkpoints.sharded import ShardedWriter, _Unpickler, separate
from xtuner.engine.run import RunOptions
from xtuner.errors import CheckpointError, ConfigError
from xtuner.parallel.world import World

STATE = {
    "state_dict": {"w": torch.arange(64.0), "b": torch.ones(3)},
    "optimizer": {"optimizer": {"state": {0: {"m": torch.zeros(64)}}, "param_groups": [{"lr": 0.1}]}},
    "meta": {"iter": 2},
}


def save(path, state=STATE):
    ShardedWriter(World()).save(separate(state), path)


def train(config, work_dir, **options):
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.train()
    return run


def bits(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_a_checkpoint_reads_as_what_was_saved(tmp_path):
    save(tmp_path / "iter_2.pth")
    found = load_checkpoint(tmp_path / "iter_2.pth", check=True)
    assert str({k: v for k, v in found.items() if k != "sharded"}) == str(STATE)
    assert find_last(tmp_path) == tmp_path / "iter_2.pth"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_2.pth", "last_checkpoint"]


def test_without_the_optimizer_only_weights_are_read(tmp_path):
    save(tmp_path / "iter_2.pth")
    assert "optimizer" not in load_checkpoint(tmp_path / "iter_2.pth", with_optimizer=False)


@pytest.mark.parametrize("first", ["file", "folder"])
def test_another_form_takes_the_name(first, tmp_path):
    """A run that trains anew with the other setting."""
    path = tmp_path / "iter_2.pth"
    path.write_bytes(b"old") if first == "file" else path.mkdir()
    save(path)
    assert load_checkpoint(path)["meta"] == {"iter": 2}
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_flipped_bytes_are_found_or_change_nothing(tmp_path):
    """In what the processes wrote, and in the table of it."""
    path = tmp_path / "iter_2.pth"
    save(path)
    for name in (".metadata", "__0_0.distcp"):
        whole = (path / name).read_bytes()
        for place in range(0, len(whole), 13):
            (path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            if find_fault(path) is None:
                found = load_checkpoint(path)
                assert str(found["state_dict"]) == str(STATE["state_dict"]), (name, place)
                assert str(found["optimizer"]) == str(STATE["optimizer"]), (name, place)
        (path / name).write_bytes(whole)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state.pt"])
@pytest.mark.parametrize("rest", [None, 0, 100])
def test_a_missing_or_cut_file_is_found(name, rest, tmp_path):
    """Bare --resume continues from the checkpoint before."""
    save(tmp_path / "iter_1.pth")
    save(tmp_path / "iter_2.pth")
    file = tmp_path / "iter_2.pth" / name
    data = file.read_bytes()
    file.unlink()
    if rest is not None:
        file.write_bytes(data[:rest])
    assert find_whole(tmp_path) == tmp_path / "iter_1.pth"


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    """Its table is a pickle, of which the classes of such tables alone are made."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    save(tmp_path / "iter_2.pth")
    (tmp_path / "iter_2.pth" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be read: posix\.mkdir"):
        load_checkpoint(tmp_path / "iter_2.pth")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path):
    """The size limit of files makes every write beyond it fail as a full disk does."""
    save(tmp_path / "iter_1.pth")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*iter_2\.pth: .*iter_1\.pth is intact"):
            save(tmp_path / "iter_2.pth", {**STATE, "state_dict": {"w": torch.ones(10_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert find_whole(tmp_path) == tmp_path / "iter_1.pth"
    assert [p.name for p in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("save_async", [False, True])
def test_a_run_resumes_to_the_same_bits(save_async, toy_config, tmp_path):
    """`max_keep_ckpts` counts folders too; the checkpoint that ends an epoch answers to its other name."""
    options = {"dropout": 0.2, "default_hooks.checkpoint.sharded": True}
    options["default_hooks.checkpoint.save_async"] = save_async
    whole = train(toy_config(**options), tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "whole").glob("*.pth")) == ["iter_18.pth", "iter_20.pth"]
    shutil.rmtree(tmp_path / "whole" / "iter_20.pth")
    resumed = train(toy_config(**options), tmp_path / "whole", resume=True)
    assert torch.equal(bits(resumed), bits(whole))
    assert load_checkpoint(tmp_path / "whole" / "epoch_2.pth")["meta"]["iter"] == 20


def test_one_file_and_a_sharded_checkpoint_continue_alike(toy_config, tmp_path):
    """Whatever the setting of the run that resumes."""
    whole = train(toy_config(dropout=0.2), tmp_path / "file")
    train(toy_config(**{"dropout": 0.2, "default_hooks.checkpoint.sharded": True}), tmp_path / "folder")
    for form in ("file", "folder"):
        path = str(tmp_path / form / "iter_18.pth")
        assert torch.equal(bits(train(toy_config(dropout=0.2), tmp_path / "again", resume=path)), bits(whole))
        started = build_run(toy_config(load_from=path), RunOptions(work_dir=str(tmp_path / "new")))
        started.held.close()
        assert torch.equal(bits(started), torch.cat([
            w.flatten() for w in load_checkpoint(path)["state_dict"].values()
        ]))  # fmt: skip


def test_the_best_weights_are_sharded_too(toy_config, tmp_path):
    options = {"val_dataloader": {"dataset": {"type": "engine_toys.Rows"}}}
    options["default_hooks.checkpoint.sharded"] = True
    train(toy_config(**options, **{"default_hooks.checkpoint.save_best": "loss"}), tmp_path)
    (best,) = tmp_path.glob("best_loss_*.pth")
    assert best.is_dir()
    assert find_fault(best) is None
    assert "optimizer" not in load_checkpoint(best)


def test_weights_of_another_shape_are_named(toy_config, tmp_path):
    state = {"state_dict": {"net.0.weight": torch.ones(2, 2)}, "meta": {}}
    save(tmp_path / "iter_9.pth", state)
    with pytest.raises(CheckpointError, match=r"other shapes, such as net\.0\.weight: \[2, 2\] there"):
        build_run(
            toy_config(load_from=str(tmp_path / "iter_9.pth")), RunOptions(work_dir=str(tmp_path / "w"))
        )


def test_deepspeed_has_no_parts(toy_config, tmp_path):
    run = build_run(
        toy_config(**{"default_hooks.checkpoint.sharded": True}), RunOptions(work_dir=str(tmp_path))
    )
    run.backend.can_save_parts = False
    with pytest.raises(ConfigError, match="DeepSpeed's states cannot be written in parts"):
        run.train()


@pytest.mark.parametrize("sharded", [True, None])
def test_a_folder_that_not_all_see(sharded, toy_config, tmp_path, monkeypatch, caplog):
    """Asked for, it is an error; by default rank 0 writes one file."""
    monkeypatch.setattr(ShardedWriter, "is_seen_by_all", lambda self, folder: False)
    config = toy_config(**{"default_hooks.checkpoint.sharded": sharded})
    run = build_run(config, RunOptions(work_dir=str(tmp_path)))
    run.backend.gathers_weights = True
    type(run.model).uses_adapter = False
    try:
        if sharded:
            with pytest.raises(ConfigError, match="needs a folder that all processes see"):
                run.train()
        else:
            run.train()
            assert (tmp_path / "iter_20.pth").is_file()
            assert "rank 0 writes whole checkpoints" in caplog.text
    finally:
        type(run.model).uses_adapter = True


def test_a_replacement_that_was_killed_is_undone_before_a_run_resumes(toy_config, tmp_path):
    """Between its two renames the only checkpoint has no name that `--resume` would find."""
    config = toy_config(keep=1, **{"default_hooks.checkpoint.sharded": True})
    whole = train(config, tmp_path)
    (only,) = tmp_path.glob("*.pth")
    only.rename(only.with_name(f".{only.name}.old"))
    assert torch.equal(bits(train(config, tmp_path, resume=True)), bits(whole))


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_any_python_reads_the_paths_of_another(module):
    """Python 3.13 names their class differently."""
    pickled = f"c{module}\nPosixPath\n(S'a'\ntR.".encode()
    assert _Unpickler(io.BytesIO(pickled)).load() == PurePosixPath("a")
