"""Batches of items: padded, masked by true lengths, with the boundaries of every sample."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.dataset.collate_fns import default_collate_fn

ITEM = st.lists(st.integers(1, 5), min_size=1, max_size=4)  # lengths of the samples of one item


def item(lengths, first=0):
    ids = np.arange(first, first + sum(lengths), dtype=np.int32)
    labels = np.where(ids % 2, ids, -100).astype(np.int64)
    return {"input_ids": ids, "labels": labels, "cumulative_len": [0, *np.cumsum(lengths).tolist()]}


def test_a_batch_is_padded_and_its_boundaries_are_kept():
    """The whole batch of the module's picture; a token with id 0 is real."""
    batch = default_collate_fn(
        [
            {"input_ids": [5, 0, 7, 8], "labels": [-100, 0, 7, 8], "cumulative_len": [0, 3, 4]},
            {"input_ids": [9, 9], "labels": [-100, 9], "cumulative_len": [0, 2]},
        ]
    )
    assert batch["data_samples"] is None
    data = batch["data"]
    assert data["input_ids"].tolist() == [[5, 0, 7, 8], [9, 9, 0, 0]]
    assert data["labels"].tolist() == [[-100, 0, 7, 8], [-100, 9, -100, -100]]
    assert data["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert data["attention_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    assert [boundaries.tolist() for boundaries in data["cumulative_len"]] == [[0, 3, 4], [0, 2]]
    assert data["max_seqlen"] == 3
    assert data["input_ids"].dtype == data["labels"].dtype == data["position_ids"].dtype == torch.int64
    assert data["attention_mask"].dtype == torch.bool
    assert data["cumulative_len"][0].dtype == torch.int32


def test_the_flag_for_variable_length_attention_changes_nothing():
    """Boundarys are always there."""
    items = [item([2, 1])]
    plain = default_collate_fn(items, return_hf_format=True)
    varlen = default_collate_fn(items, return_hf_format=True, use_varlen_attn=True)
    assert plain.keys() == varlen.keys()
    assert all(str(plain[name]) == str(varlen[name]) for name in plain)


def test_the_filler_can_be_chosen_and_a_lone_item_has_its_own_boundaries():
    """`pad_index` fills; an item without boundaries is one sample."""
    data = default_collate_fn(
        [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [3], "labels": [3]}],
        pad_index=9,
        return_hf_format=True,
    )
    assert data["input_ids"].tolist() == [[1, 2], [3, 9]]
    assert [boundaries.tolist() for boundaries in data["cumulative_len"]] == [[0, 2], [0, 1]]


@settings(max_examples=30, deadline=None)
@given(st.lists(ITEM, min_size=1, max_size=4))
def test_the_items_can_be_read_back_from_the_batch(rows):
    """The mask covers the items; positions restart at each boundary; nothing else is supervised."""
    items = [item(lengths, first=10 * number) for number, lengths in enumerate(rows)]
    data = default_collate_fn(items, return_hf_format=True)
    assert data["max_seqlen"] == max(map(max, rows))
    for row, (lengths, one) in enumerate(zip(rows, items, strict=True)):
        real = data["attention_mask"][row]
        assert data["input_ids"][row][real].tolist() == one["input_ids"].tolist()
        assert data["labels"][row][real].tolist() == one["labels"].tolist()
        assert data["labels"][row][~real].tolist() == [-100] * int((~real).sum())
        assert data["position_ids"][row][real].tolist() == [p for n in lengths for p in range(n)]
        assert data["cumulative_len"][row].tolist() == one["cumulative_len"]


def test_pictures_of_one_size_are_stacked():
    """Others stay a list."""
    picture = {"input_ids": [1], "labels": [1], "pixel_values": torch.zeros(3, 2, 2)}
    wide = {**picture, "pixel_values": torch.zeros(3, 2, 4)}
    same = default_collate_fn([picture, picture], return_hf_format=True)
    assert same["pixel_values"].shape == (2, 3, 2, 2)
    assert len(default_collate_fn([picture, wide], return_hf_format=True)["pixel_values"]) == 2
