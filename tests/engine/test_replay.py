"""The record of a run's first updates: when it is written, what it holds, what it costs."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xtuner.config.schema import check
from xtuner.dataset.collate_fns import default_collate_fn, flat_collate_fn
from xtuner.engine.build import build_run
from xtuner.engine.hooks.hook import Hook
from xtuner.engine.replay import hashes
from xtuner.engine.replay.batches import describe_batch, kept_tokens, num_kept
from xtuner.engine.replay.compare import GROUPS, compare
from xtuner.engine.replay.files import find_record, read_record
from xtuner.engine.replay.record import ReplayHook
from xtuner.engine.replay.rerun import options_of, rerun
from xtuner.engine.replay.updates import Tolerance
from xtuner.engine.run import RunOptions
from xtuner.errors import ConfigError


def train(config, work_dir, **options):
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.train()
    return run


def records(work_dir):
    return sorted(work_dir.glob("*/replay.json"))


def test_the_record(toy_config, tmp_path, moment):
    """Three updates by default, each with its rows, its loss, its rate and its norm."""
    run = train(toy_config(batch_size=2, accumulative_counts=2), tmp_path)
    (path,) = records(tmp_path)
    record = read_record(path)
    assert path.parent == run.log_dir
    assert record["config"] == {"filename": "toy.py", "text": run.cfg.text}
    assert record["options"] == {"seed": None, "fsdp": False, "deepspeed": None}
    # Ten batches in two epochs: the fifth one ends an epoch, not an update.
    assert [(u["update"], u["iter"]) for u in record["updates"]] == [(1, 1), (2, 3), (3, 5)]
    first = record["updates"][0]
    (batches,) = first["processes"]
    scalars = [json.loads(line) for line in (run.log_dir / "vis_data/scalars.json").read_text().splitlines()]
    assert first["grad_norm"] == pytest.approx(scalars[1]["grad_norm"])
    assert first["lr"] == [pytest.approx(scalars[1]["lr"])]
    assert batches[0]["loss"] == pytest.approx(scalars[0]["loss"], rel=1e-5)
    order = list(run.train_dataloader.sampler)
    assert len(order) == 10
    assert all(row.startswith("toy.json line 10") for batch in batches for row in batch["rows"])
    assert [len(batch["rows"]) for batch in batches] == [2, 2]
    assert batches[0]["tensors"].keys() == {"x", "count"}
    assert len(batches[0]["tensors"]["x"]["values"]) == 8


def test_none_is_written_if_none_is_asked_for(toy_config, tmp_path):
    """`replay_updates = 0`; another number is kept to, as far as the run goes."""
    train(toy_config(replay_updates=0), tmp_path / "a")
    assert records(tmp_path / "a") == []
    train(toy_config(replay_updates=30), tmp_path / "b")
    assert len(read_record(find_record(tmp_path / "b"))["updates"]) == 20
    with pytest.raises(ConfigError, match="replay_updates is -1"):
        check(toy_config(replay_updates=-1))


def test_a_resumed_run_leaves_it_alone_and_a_new_one_writes_its_own(toy_config, tmp_path):
    """Each start has a folder; the newest record is the one that is read."""
    train(toy_config(max_epochs=1), tmp_path)
    (first,) = records(tmp_path)
    content = first.read_bytes()
    train(toy_config(), tmp_path, resume=True)
    assert records(tmp_path) == [first]
    assert first.read_bytes() == content
    train(toy_config(randomness={"seed": 4}), tmp_path)
    assert len(records(tmp_path)) == 2
    assert first.read_bytes() == content
    newest = find_record(tmp_path)
    assert newest != first
    assert read_record(newest)["facts"]["seed"] == {"seed": "4"}
    assert find_record(first.parent) == find_record(first) == first


class Killed(Hook):
    """Ends the process, without a word, in an update."""

    def __init__(self, at):
        self.at = at

    def before_update(self, runner):
        if runner.iter == self.at:
            os._exit(9)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_run_leaves_what_it_did(toy_config, tmp_path, at):
    """The record is whole after each update; one without an update is refused with the reason."""
    config = toy_config()
    config.custom_hooks = [{"type": Killed, "at": at}]
    if not (pid := os.fork()):
        try:
            train(config, tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    if not at:
        with pytest.raises(ConfigError, match="no update: the run ended before its first one"):
            read_record(find_record(tmp_path))
        return
    assert [update["update"] for update in read_record(find_record(tmp_path))["updates"]] == [1, 2][:at]


def test_a_record_that_cannot_be_written_does_not_end_the_run(toy_config, tmp_path, monkeypatch, caplog):
    """As on a full disk."""

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xtuner.engine.replay.record.written", full)
    run = train(toy_config(), tmp_path)
    assert run.iter == 20
    assert caplog.text.count("replay.json cannot be written: No space left on device") == 1


def test_a_fact_that_cannot_be_found_does_not_end_the_run(toy_config, tmp_path, monkeypatch, caplog):
    """Its group is empty, which the log says."""
    monkeypatch.setattr("xtuner.engine.replay.facts.packages", lambda: 1 / 0)
    assert train(toy_config(), tmp_path).iter == 20
    assert "replay.json cannot record the packages: ZeroDivisionError" in caplog.text
    facts = read_record(find_record(tmp_path))["facts"]
    assert (facts["packages"], facts["seed"]) == ({}, {"seed": "3"})


def test_a_drawn_seed_and_dropout_are_replayed(toy_config, tmp_path, monkeypatch):
    """A run without a seed of its own; hooks that only save are left out, others are not."""
    seen = []

    class Noisy(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(float(torch.rand(())))

    config = toy_config(dropout=0.3, randomness={}, accumulative_counts=2)
    config.custom_hooks = [{"type": Noisy}]
    train(config, tmp_path)
    record = read_record(find_record(tmp_path))
    first, seen[:] = seen[:6], []
    judged = []
    monkeypatch.chdir(tmp_path)

    def judge(again, tokenizer):
        judged.append((again, tokenizer))
        return 7

    assert rerun(config, options_of(record, config), 3, judge) == 7
    ((again, tokenizer),) = judged
    assert (seen, tokenizer) == (first, None)
    found = compare(record, again, Tolerance(0.0))
    assert (found.verdict, found.is_equal) == ("Equal: 3 updates and all that they depend on", True)


@pytest.mark.parametrize("changed", ["data", "processes"])
def test_a_rate_follows_from_all_that_decides_how_long_an_epoch_is(toy_config, tmp_path, changed):
    """More rows, or more processes, make another number of updates, over which the rate falls."""
    train(toy_config(), tmp_path)
    record = read_record(find_record(tmp_path))
    other = copy.deepcopy(record)
    other["facts"][changed]["x"] = "2"
    other["updates"][0]["lr"] = [1.0]
    verdict = compare(record, other, Tolerance(0.0)).verdict
    assert verdict.startswith("The first difference: learning rate of update 1")
    assert f"the {GROUPS[changed][0]} changed" in verdict


IDS = [[5, 6, 7, 8], [9, 9]]


def item(ids):
    return {"input_ids": ids, "labels": [-100, *ids[1:]]}


def test_a_batch_is_the_same_padded_and_packed():
    """Hashes are of samples, without padding; the first tokens are kept as they are."""
    flat = describe_batch(flat_collate_fn([item(ids) for ids in IDS]), 5)
    padded = describe_batch(default_collate_fn([item(ids) for ids in IDS]), 5)
    assert flat == padded
    assert [sample[0] for sample in flat["samples"]] == [4, 2]
    assert num_kept(flat) == 5
    assert kept_tokens(flat, 0) == {"input_ids": IDS[0], "labels": [-100, 6, 7, 8]}
    assert kept_tokens(flat, 1) == {"input_ids": [9], "labels": [-100]}
    other = describe_batch(flat_collate_fn([item(IDS[0]), item([9, 8])]), 5)
    assert other["samples"][0] == flat["samples"][0]
    assert other["samples"][1] != flat["samples"][1]


def test_a_changed_place_of_a_large_file_is_found_where_it_is_looked_at(tmp_path, monkeypatch):
    """A small file is read whole, of a large one its size, its ends and blocks between."""
    path = tmp_path / "rows"
    content = np.random.default_rng(0).bytes(100_000)
    path.write_bytes(content)
    whole = hashes.hash_file(path)
    monkeypatch.setattr(hashes, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(hashes, "BLOCK_BYTES", 100)
    assert hashes.hash_file(path, 3) != hashes.hash_file(path, 2) != whole
    assert hashes.hash_file(path, 3) == hashes.hash_file(path, 4)
    sampled = hashes.hash_file(path)
    for at in (0, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        assert hashes.hash_file(path) != sampled
    path.write_bytes(content + b"x")
    assert hashes.hash_file(path) != sampled
    path.write_bytes(content)
    assert hashes.hash_file(path) == sampled != whole


def test_the_hash_of_weights_finds_each_tensor_in_any_division(tmp_path):
    """The same tensors in two files have the same hash; each changed one has another."""
    tensors = {name: torch.randn(30, 40, dtype=torch.bfloat16) for name in "abcd"}

    def saved(name, *parts):
        (tmp_path / name).mkdir()
        for number, part in enumerate(parts):
            save_file(part, tmp_path / name / f"model-{number}.safetensors")
        return hashes.hash_weights(tmp_path / name, ["*.safetensors"])

    one = saved("one", tensors)
    assert saved("two", *({n: tensors[n] for n in names} for names in ("ca", "bd"))) == one
    for name, tensor in tensors.items():
        assert saved(f"changed {name}", {**tensors, name: tensor * 1.01}) != one
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert hashes.hash_weights(tmp_path / "copy", ["*.safetensors"]) == one


def test_recording_takes_milliseconds(toy_config, tmp_path):
    """Once the facts, and each update; far below what would be felt."""
    run = build_run(toy_config(), RunOptions(work_dir=str(tmp_path)))
    (hook,) = (hook for hook in run.hooks if isinstance(hook, ReplayHook))
    run.train()
    assert len(hook.milliseconds) == 4
    assert hook.milliseconds[0] < 2000
    assert max(hook.milliseconds[1:]) < 200


def test_hashing_leaves_the_weights_as_they_are():
    """Their storage can still be resized, as FSDP does it."""
    weight = torch.ones(4)
    hashes.hash_tensor(weight)
    weight.untyped_storage().resize_(0)
    assert weight.untyped_storage().size() == 0
