"""Training on a stream, resumed at any iteration, has the same result as a run without a stop."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from xtuner import cli
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.engine.batches.streamed import StreamBatches
from xtuner.errors import CheckpointError

CONFIG = Path(__file__).parents[2] / "data" / "bad_input" / "config.py"
STREAM = ["train_dataloader.dataset.streaming=True", "train_dataloader.dataset.buffer_size=5"]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def rows_of(count):
    return [{"instruction": f"q{n}", "input": "", "output": f"answer {n}"} for n in range(count)]


@pytest.fixture
def train(tmp_path, llama_dir, monkeypatch, capfd):
    """Run `xtuner train` in this process with arguments and options; returns its exit code and last line."""
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    text = "\n".join(json.dumps(row) for row in rows_of(23))
    (tmp_path / "d.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(*words, **options):
        given = ["data_path=d.jsonl", "pack=True", *STREAM, *(f"{k}={v}" for k, v in options.items())]
        code = cli.main(["train", "c.py", *words, "--cfg-options", *given])
        return code, capfd.readouterr().err

    return run


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("stop", "options"),
    [
        (4, {}),
        (6, {"optim_wrapper.accumulative_counts": 4}),
        (4, {"train_dataloader.num_workers": 2, "train_dataloader.batch_size": 2}),
    ],
)
def test_a_stream_is_resumed_to_the_same_bits(train, stop, options):
    """With dropout, across epochs, in the middle of an update, with workers that read ahead."""
    options = {"max_iters": 12, "max_length": 32, "default_hooks.checkpoint.max_keep_ckpts": -1, **options}
    assert train("--work-dir", "whole", **options)[0] == 0
    code, said = train("--work-dir", "again", "--resume", f"whole/iter_{stop}.pth", **options)
    assert (code, "Resumed at iter" in said) == (0, True)
    whole, again = weights("whole/iter_12.pth"), weights("again/iter_12.pth")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not torch.equal(*(weights(f"whole/iter_{n}.pth")[next(iter(whole))] for n in (stop, 12)))


def test_settings_in_epochs_are_refused(train):
    """All in one error, each with its cure."""
    options = {
        "train_cfg.max_epochs": 2,
        "train_cfg.max_iters": None,
        "param_scheduler.0.by_epoch": True,
        "default_hooks.checkpoint.by_epoch": True,
    }
    code, said = train(**options)
    lines = [line for line in said.splitlines() if "epoch is not known" in line]
    assert (code, len(lines)) == (1, 3)
    assert "max_epochs is 2" in lines[0]
    assert "max_iters=...) instead" in lines[0]
    assert "param_scheduler.0 counts epochs" in lines[1]
    assert "default_hooks.checkpoint counts epochs" in lines[2]


def batches_of(tokenizer, rank=0, world_size=1, num_workers=0, **more):
    arguments = {"pack_to_max_length": False, "buffer_size": 4, "streaming": True}
    rows = [{"conversation": [{"input": "q", "output": f"{n}"}]} for n in range(30)]
    dataset = process_hf_dataset(rows, tokenizer=tokenizer, max_length=32, **arguments | more)
    return StreamBatches(dataset, 2, default_collate_fn, 0, rank, world_size, num_workers=num_workers)


def rows_in(batches, count):
    taken = itertools.islice(batches.start_at(0), count)
    return [cursor[-1] for rows, _ in taken for item in rows for cursor in item]


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (3, 0), (1, 2)])
def test_processes_and_workers_read_different_rows(tokenizer, world_size, num_workers):
    """Together they read each row once in an epoch; 30 rows divide evenly here."""
    per_rank = 30 // world_size // 2 + (num_workers == 2)  # two workers of 15 rows: 8 batches each
    ranks = [batches_of(tokenizer, rank, world_size, num_workers) for rank in range(world_size)]
    seen = [row for batches in ranks for row in rows_in(batches, per_rank)]
    assert sorted(set(seen)) == list(range(30))
    assert len(seen) - 30 == (2 if num_workers else 0), "the next epoch's first rows fill the last batches"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_continue_after_the_used_ones(tokenizer, num_workers):
    """Also if the next batch is another worker's turn, for any read-ahead."""
    whole = contents(batches_of(tokenizer, num_workers=num_workers).start_at(0), 9)
    for stop in (1, 4):
        first, second = (batches_of(tokenizer, num_workers=num_workers) for _ in range(2))
        taken = first.start_at(0)
        contents(taken, stop)
        second.go_on_from(json.loads(json.dumps(first.position())))
        assert contents(second.start_at(stop), 9 - stop) == whole[stop:]


def contents(batches, count):
    return [(rows, batch["data"]["input_ids"].tolist()) for rows, batch in itertools.islice(batches, count)]


def test_another_number_of_workers_cannot_resume(tokenizer):
    position = batches_of(tokenizer).position()
    with pytest.raises(CheckpointError, match=r"1 worker per process .* has 2: set train_dataloader"):
        batches_of(tokenizer, num_workers=2).go_on_from(position)
