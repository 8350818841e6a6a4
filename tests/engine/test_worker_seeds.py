"""Random numbers of user code in the workers of a loader."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.engine.batches.indexed import Batches
from xtuner.engine.batches.streamed import StreamBatches


def draw():
    return random.random(), np.random.rand(), torch.rand(1, dtype=torch.float64).item()


class Draws:
    """Eight items, each with random numbers of `random`, numpy and torch from when it was read."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return draw()


def collate(items):
    return [*items, draw()]


def drawn(rank=0, start=0, count=8, num_workers=2):
    """The random numbers of `count` batches from batch `start` on; an epoch has four."""
    sampler = BatchSampler(SequentialSampler(range(8)), 2, drop_last=False)
    batches = Batches(Draws(), sampler, collate, 5, rank, num_workers=num_workers)
    return [batch for _, batch in itertools.islice(batches.start_at(start), count)]


def numbers(batches):
    return [number for batch in batches for triple in batch for number in triple]


def test_workers_processes_and_epochs_draw_different_numbers():
    found = numbers(drawn(rank=0) + drawn(rank=1))
    assert len(set(found)) == len(found) == 2 * 8 * 3 * 3


def test_a_batch_draws_the_same_numbers_for_any_start_and_worker():
    """So a resumed run has the same numbers as one without a stop."""
    whole = drawn()
    assert drawn(start=3, count=5) == whole[3:]
    assert drawn(num_workers=1) == whole


def test_without_workers_the_generators_of_the_run_are_used():
    """Their state is in the checkpoint."""
    torch.manual_seed(0)
    before = torch.rand(3, dtype=torch.float64).tolist()
    torch.manual_seed(0)
    (first,) = drawn(count=1, num_workers=0)
    assert [triple[2] for triple in first] == before


def say_a_number(row):
    return {"conversation": [{"input": "Say one.", "output": " ".join(map(str, draw()))}]}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stream_resumes_with_the_same_numbers(tokenizer, rank):
    """Also in map functions, although a run that resumes within a buffer reads it again."""
    rows = [{"n": n} for n in range(24)]

    def made():
        dataset = process_hf_dataset(
            rows,
            tokenizer=tokenizer,
            max_length=96,
            dataset_map_fn=say_a_number,
            streaming=True,
            buffer_size=3,
            pack_to_max_length=False,
        )
        return StreamBatches(dataset, 2, default_collate_fn, 5, rank, 2, num_workers=2)

    def ids(batches, count):
        found = itertools.islice(batches.start_at(0), count)
        return [tuple(batch["data"]["input_ids"].flatten().tolist()) for _, batch in found]

    whole = ids(made(), 12)
    assert len(set(whole)) == len(whole), "two epochs of six batches"
    broken = made()
    assert ids(broken, 5) == whole[:5]
    resumed = made()
    resumed.go_on_from(broken.position())
    assert ids(resumed, 7) == whole[5:]
