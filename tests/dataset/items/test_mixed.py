"""Several streams as one: their fractions hold at any time, and reading resumes from any position."""

import itertools

import pytest

from xtuner.dataset import ConcatDataset, MixedStream, process_hf_dataset
from xtuner.errors import ConfigError


def stream(bos, name, count):
    rows = [{"conversation": [{"input": name, "output": f"{n}"}]} for n in range(count)]
    return process_hf_dataset(
        rows, tokenizer=bos, max_length=16, streaming=True, buffer_size=4, pack_to_max_length=False
    )


def mixed(bos, **more):
    return MixedStream([stream(bos, "a", 9), stream(bos, "b", 3)], **more)


def contents(found, count):
    return [(s.item["input_ids"].tolist(), s.rows) for s in itertools.islice(found, count)]


@pytest.mark.parametrize("weights", [None, [3, 1], [1, 2.5]])
def test_fractions_hold_after_every_item(bos, weights):
    """After n items the number of each stream is its fraction of n, to less than one item."""
    of_first = [rows[0][0] == 0 for _, rows in contents(mixed(bos, weights=weights).read(), 80)]
    share = 0.5 if weights is None else weights[0] / sum(weights)
    for count in range(1, 81):
        assert abs(sum(of_first[:count]) - share * count) < 1


def test_it_resumes_from_any_position(bos):
    """The position is plain numbers; streams of different lengths are at different epochs."""
    dataset = mixed(bos, weights=[2, 1])
    whole = list(itertools.islice(dataset.read(1, 2), 40))
    for stop in (1, 7, 30):
        position = mixed(bos).position(whole[stop - 1].position.numbers())
        again = contents(mixed(bos, weights=[2, 1]).read(1, 2, position), 40 - stop)
        assert again == contents(whole[stop:], 40 - stop)


def test_places_counts_and_key_are_those_of_all(bos):
    dataset = mixed(bos)
    (_, first), (_, second) = contents(dataset.read(), 2)
    assert [rows[0][0] for rows in (first, second)] == [0, 1]
    assert dataset.source_places(second) == [f"row {second[0][3]} (counted from 0)"]
    assert dataset.first_buffer().stats["rows"] == 4 + 3
    assert len({dataset.key, mixed(bos).key, mixed(bos, weights=[1, 2]).key}) == 2


def nested(bos):
    inner = MixedStream([stream(bos, "a", 9), stream(bos, "b", 3)], weights=[2, 1])
    return MixedStream([stream(bos, "c", 4), inner])


def test_a_mixture_may_be_of_mixtures(bos):
    """Its fractions are those of the whole, and it too resumes from plain numbers."""
    dataset = nested(bos)
    whole = list(itertools.islice(dataset.read(1, 2), 40))
    found = [dataset.source_places(s.rows)[0] for s in whole]
    assert found == [nested(bos).source_places(s.rows)[0] for s in whole]
    assert [[sum(s.rows[0][:2] == start for s in whole) for start in ((1, 0), (1, 1))], len(whole)] == [
        [13, 7],
        40,
    ]
    for stop in (1, 7, 30):
        position = nested(bos).position(whole[stop - 1].position.numbers())
        assert position == whole[stop - 1].position
        again = contents(nested(bos).read(1, 2, position), 40 - stop)
        assert again == [(s.item["input_ids"].tolist(), s.rows) for s in whole[stop:]]
    assert dataset.first_buffer().stats["rows"] == 4 + 4 + 3
    assert dataset.key != MixedStream(dataset.datasets, weights=[1, 2]).key


def test_what_cannot_be_mixed_is_refused(bos):
    """Counted data sets and streams are mixed by different classes."""
    counted = process_hf_dataset(
        [{"conversation": [{"input": "q", "output": "a"}]}], tokenizer=bos, max_length=16
    )
    with pytest.raises(ConfigError, match="others are mixed by ConcatDataset"):
        MixedStream([counted])
    with pytest.raises(ConfigError, match="mix them with dict\\(type=MixedStream"):
        ConcatDataset([stream(bos, "a", 3)])
    for weights in ([1], [1, 0]):
        with pytest.raises(ConfigError, match="needs 2 numbers above 0"):
            mixed(bos, weights=weights)
