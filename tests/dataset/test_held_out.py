"""Held-out rows, and rows equal to them, are never trained on."""

import json

import pytest

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import ConfigError, DataError


def rows_of(dataset):
    return {row for item in range(len(dataset)) for row in dataset.source_rows(item)}


def split(rows, tokenizer, share=0.1, **options):
    """The row numbers on both sides."""
    options = {"tokenizer": tokenizer, "max_length": 64, "held_out": share, **options}
    return [rows_of(process_hf_dataset(rows, take_held_out=take, **options)) for take in (False, True)]


def conversation(n):
    return {"conversation": [{"input": f"{n}?", "output": str(n)}]}


def test_a_fraction_of_the_rows_is_held_out_and_every_row_is_on_one_side(bos):
    trained, held_out = split([conversation(n) for n in range(100)], bos)
    assert (len(held_out), trained & held_out, trained | held_out) == (10, set(), set(range(100)))


def test_equal_rows_are_on_the_same_side(bos):
    """Eight rows, each a hundred times: one of them is held out wholly."""
    trained, held_out = split([conversation(n % 8) for n in range(800)], bos, max_dataset_length=400)
    assert len({n % 8 for n in held_out}) == 1
    assert {n % 8 for n in held_out} & {n % 8 for n in trained} == set()
    assert len(held_out | trained) == 400


def test_rows_stay_on_their_side_when_the_order_changes(bos):
    rows = [conversation(n) for n in range(50)]
    held_out = split(rows, bos)[1]
    assert {49 - n for n in split(rows[::-1], bos)[1]} == held_out


def test_a_broken_row_is_reported_with_the_training_rows(bos, tmp_path):
    lines = [json.dumps(conversation(n)) for n in range(40)]
    (tmp_path / "d.jsonl").write_text("\n".join([*lines[:20], "{broken", *lines[20:]]))
    rows = load_dataset(str(tmp_path / "d.jsonl"))
    trained, held_out = split(rows, bos)
    assert (len(trained), len(held_out), 20 in trained | held_out) == (36, 4, False)


def test_rows_that_are_all_the_same_cannot_be_divided(bos):
    with pytest.raises(
        DataError, match="none of 5 rows can be held out for validation: they are all the sam"
    ):
        split([conversation(1)] * 5, bos)


def test_a_stream_cannot_be_divided(bos):
    with pytest.raises(ConfigError, match="give val_dataloader a dataset of its own instead of held_out"):
        split([conversation(1)] * 5, bos, streaming=True)
