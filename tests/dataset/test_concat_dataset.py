"""Several data sets as one: every item of every source as often as set, packed or not."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.errors import ConfigError, DataError

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=3)
FEW = settings(max_examples=40, deadline=None)


class Source:
    """A data set whose items contain their origin: tokens [number, item, item, ...]."""

    def __init__(self, number, size):
        self.size = size
        self.number = number
        self.key = f"{number} {size}"
        self.length = [2 + i for i in range(size)]
        tokens = sum(self.length)
        self.stats = dict(rows=size, tokens=tokens, trained=tokens, packs=size, fill=1.0, dropped={})

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        ids = np.array([self.number] + [index] * (1 + index), np.int32)
        return {"input_ids": ids, "labels": ids.astype(np.int64), "cumulative_len": [0, len(ids)]}

    def source_rows(self, index):
        return [index]

    def source_places(self, index):
        return [f"source {self.number} row {index}"]


def sources(sizes):
    return [Source(number, size) for number, size in enumerate(sizes)]


def seen(mixed):
    """How often each (source, item) comes."""
    found = Counter()
    for index in range(len(mixed)):
        item = mixed[index]
        boundaries = item["cumulative_len"]
        assert len(item["input_ids"]) == mixed.length[index]
        for start, end in itertools.pairwise(boundaries):
            number, inner = item["input_ids"][start : start + 2].tolist()
            assert item["input_ids"][start:end].tolist() == [number] + [inner] * (1 + inner)
            found[number, inner] += 1
    return found


@FEW
@given(SIZES, st.data())
def test_each_item_comes_as_often_as_any_other_of_its_source(sizes, data):
    """Epochs and counts: full passes first, and the rest at random without any item twice."""
    if data.draw(st.booleans()):
        epochs = data.draw(st.lists(st.sampled_from([0.5, 1, 2.5]), min_size=len(sizes), max_size=len(sizes)))
        mixed = ConcatDataset(sources(sizes), epochs=epochs, seed=3)
        counts = [round(size * e) for size, e in zip(sizes, epochs, strict=True)]
    else:
        counts = data.draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
        mixed = ConcatDataset(sources(sizes), num_samples=counts, seed=3)
    if not len(mixed):
        return
    found = seen(mixed)
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        times = [found[number, inner] for inner in range(size)]
        assert sum(times) == count
        assert max(times) - min(times) <= 1


def test_weights_are_fractions_of_all_items():
    """As many items as before, or as set; the sum is exact."""
    mixed = ConcatDataset(sources([4, 2]), weights=[1, 1])
    assert Counter(number for number, _ in seen(mixed).elements()) == {0: 3, 1: 3}
    mixed = ConcatDataset(sources([4, 2]), weights=[0.2, 0.1], num_samples=10)
    assert Counter(number for number, _ in seen(mixed).elements()) == {0: 7, 1: 3}


@FEW
@given(SIZES, st.integers(8, 20))
def test_packing_across_sources_loses_nothing(sizes, max_length):
    """Packs of whole items that are never too long, and every position is known."""
    mixed = ConcatDataset(sources(sizes), max_length=max_length)
    assert seen(mixed) == seen(ConcatDataset(sources(sizes)))
    assert max(mixed.length) <= max_length
    assert mixed.stats["tokens"] == sum(mixed.length)
    assert mixed.stats["fill"] == pytest.approx(sum(mixed.length) / (len(mixed) * max_length))
    for index in range(len(mixed)):
        assert len(mixed.source_places(index)) == len(mixed[index]["cumulative_len"]) - 1


def test_the_seed_decides_and_the_key_tells():
    """Same seed, same items; what is taken is part of the key, and a plain sequence keeps its key."""
    make = lambda seed: ConcatDataset(sources([6, 6]), num_samples=[3, 3], seed=seed)  # noqa: E731
    assert seen(make(0)) == seen(make(0))
    assert make(0).key == make(0).key != make(1).key
    assert ConcatDataset(sources([2]), epochs=[1]).key == ConcatDataset(sources([2])).key


def test_samples_of_two_sources_are_packed_together(bos):
    """Real data: unpacked sources, one plan over both."""
    rows = [{"conversation": [{"input": "q", "output": "a " * n}]} for n in range(1, 9)]
    parts = [
        process_hf_dataset(part, tokenizer=bos, max_length=40, pack_to_max_length=False)
        for part in (rows[:5], rows[5:])
    ]
    mixed = ConcatDataset(parts, max_length=40)
    assert len(mixed) < 8
    assert mixed.stats["rows"] == 8
    assert mixed.stats["trained"] == sum(part.stats["trained"] for part in parts)
    assert sum((mixed[i]["labels"] != -100).sum() for i in range(len(mixed))) == mixed.stats["trained"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(weights=[1]), "needs 2 numbers"),
        (dict(weights=[1, -1]), r"weights is \[1, -1\]"),
        (dict(epochs=[0, 0]), "needs 2 numbers"),
        (dict(weights=[1, 1], epochs=[1, 1]), "got weights and epochs"),
        (dict(num_samples=3), "as one number without weights"),
    ],
)
def test_what_cannot_be_mixed_is_an_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ConcatDataset(sources([2, 2]), **arguments)


def test_items_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="an item of 4 tokens does not fit"):
        ConcatDataset(sources([3]), max_length=3)
