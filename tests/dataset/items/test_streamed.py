"""Streaming: every row once an epoch whoever reads it, the same items after a stop, one buffer in memory."""

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.encoding.pipeline import EMPTY, FAULTY
from xtuner.dataset.items.packing import plan_packs
from xtuner.dataset.items.streamed import Position
from xtuner.dataset.map_fns import pretrain_map_fn
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import ConfigError, DataError

SHARED = {
    "max_examples": 25,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


def rows_of(count):
    """Rows whose answers are their numbers; every seventh has nothing in it."""
    turn = lambda n: {"input": "q" * (n % 5), "output": f"{n}"}  # noqa: E731
    return [{"conversation": [turn(n)] if n % 7 != 6 else []} for n in range(count)]


def stream(rows, tokenizer, **more):
    arguments = {"tokenizer": tokenizer, "max_length": 24, "streaming": True, "buffer_size": 5}
    return process_hf_dataset(rows, **arguments | more)


def epoch_of(dataset, reader, num_readers):
    """The items of a reader's first epoch."""
    found = dataset.read(reader, num_readers)
    return list(itertools.takewhile(lambda streamed: streamed.position.epoch == 0, found))


def as_lists(streamed):
    return [{name: np.asarray(value).tolist() for name, value in s.item.items()} for s in streamed]


def files_of(folder, count, *, sizes=(0.5, 0.5), kinds=(".jsonl", ".jsonl")):
    """Files that hold `count` rows together, with empty lines between some of them."""
    rows, start = rows_of(count), 0
    for number, (size, kind) in enumerate(zip(sizes, kinds, strict=True)):
        part = rows[start : start + round(size * count)] if number < len(sizes) - 1 else rows[start:]
        start += len(part)
        path = folder / f"{number}{kind}"
        if kind == ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), path, row_group_size=3)
        else:
            text = json.dumps(part) if kind == ".json" else "\n\n".join(json.dumps(row) for row in part)
            path.write_text(text, encoding="utf-8")
    return load_dataset(str(folder / "*.*"))


@settings(**SHARED)
@given(
    count=st.integers(1, 40),
    num_readers=st.integers(1, 4),
    buffer_size=st.integers(1, 12),
    pack=st.booleans(),
    shuffle=st.booleans(),
)
def test_every_row_comes_once_an_epoch(bos, count, num_readers, buffer_size, pack, shuffle):
    """Whatever the number of readers, buffers and the way of packing; each row has one reader."""
    more = {"buffer_size": buffer_size, "pack_to_max_length": pack, "shuffle_before_pack": shuffle}
    dataset = stream(rows_of(count), bos, **more)
    wanted = [n for n in range(count) if n % 7 != 6]
    seen = []
    for reader in range(num_readers):
        own = [n for n in wanted if n % num_readers == reader]
        if own:
            items = epoch_of(dataset, reader, num_readers)
            assert all(len(item.item["input_ids"]) <= 24 for item in items)
            rows = [cursor.row for item in items for cursor in item.rows]
            assert sorted(rows) == own
            seen += rows
        else:
            with pytest.raises(DataError, match=r"use fewer processes|has anything to train on"):
                next(dataset.read(reader, num_readers))
    assert sorted(seen) == wanted


@settings(**SHARED)
@given(
    stop=st.integers(0, 60), num_readers=st.integers(1, 3), pack=st.booleans(), buffer_size=st.integers(1, 9)
)
def test_reading_resumes_at_its_position(bos, tmp_path_factory, stop, num_readers, pack, buffer_size):
    """Over the boundaries of buffers, files and epochs: the same items at the same positions."""
    rows = files_of(tmp_path_factory.mktemp("d"), 23)
    dataset = stream(rows, bos, pack_to_max_length=pack, buffer_size=buffer_size)
    whole = list(itertools.islice(dataset.read(0, num_readers), stop + 12))
    numbers = whole[stop - 1].position.numbers() if stop else Position().numbers()
    again = stream(rows, bos, pack_to_max_length=pack, buffer_size=buffer_size)
    rest = list(itertools.islice(again.read(0, num_readers, Position.of(numbers)), 12))
    assert as_lists(rest) == as_lists(whole[stop:])
    assert [s.position for s in rest] == [s.position for s in whole[stop:]]


@pytest.mark.parametrize("kinds", [(".jsonl", ".parquet"), (".json", ".csv"), (".parquet", ".jsonl")])
def test_files_of_any_kind_can_be_gone_on_in(bos, tmp_path, kinds):
    """JSON lines from a byte on, Parquet from a group of rows on, others from a number of rows on."""
    if ".csv" in kinds:
        (tmp_path / "1.csv").write_text("conversation,text\n" + "".join(f",t{n}\n" for n in range(8)))
        (tmp_path / "0.json").write_text(json.dumps([{"text": f"j{n}"} for n in range(8)]))
        rows = load_dataset(str(tmp_path / "*.*"))
        dataset = stream(rows, bos, dataset_map_fn=pretrain_map_fn, pack_to_max_length=False)
    else:
        dataset = stream(files_of(tmp_path, 22, kinds=kinds), bos, pack_to_max_length=False)
    whole = list(itertools.islice(dataset.read(), 50))
    for stop in range(1, 38, 4):
        rest = itertools.islice(dataset.read(start=whole[stop - 1].position), 12)
        assert as_lists(rest) == as_lists(whole[stop : stop + 12])


def test_resuming_reads_one_buffer_and_not_what_is_before_it(bos, tmp_path, monkeypatch):
    """However far the position is: nothing before it is read, mapped or encoded again."""
    rows = files_of(tmp_path, 400)
    dataset = stream(rows, bos, buffer_size=10)
    far = next(s for s in dataset.read() if s.rows[0].row >= 380)
    parsed = []
    file = rows["train"].files[1]
    parse = type(file)._parse
    monkeypatch.setattr(type(file), "_parse", lambda self, *a: parsed.append(1) or parse(self, *a))
    next(dataset.read(start=far.position))
    assert len(parsed) == 10


def test_the_order_follows_seed_and_epoch(bos):
    """Another seed, another order; an epoch is not read in the order of the one before."""
    rows = [{"conversation": [{"input": "q", "output": f"{n}"}]} for n in range(64)]

    def order(seed, start):
        dataset = stream(rows, bos, seed=seed, buffer_size=64, pack_to_max_length=False)
        return [s.rows[0].row for s in itertools.islice(dataset.read(start=start), 64)]

    first = order(0, Position())
    assert first == order(0, Position())
    others = [order(1, Position()), order(0, Position(epoch=1)), list(range(64))]
    assert all(other != first for other in others)
    assert all(sorted(other) == list(range(64)) for other in others)


def test_items_are_those_of_packing_the_buffer(bos):
    """Best fit decreasing over the samples of the buffer, which fills items as well as a whole plan does."""
    rows = [{"conversation": [{"input": "q" * (n % 9), "output": "a" * (n % 5 + 1)}]} for n in range(60)]
    streamed = stream(rows, bos, buffer_size=60)
    whole = process_hf_dataset(rows, tokenizer=bos, max_length=24)
    lengths = whole.store.lengths
    items = epoch_of(streamed, 0, 1)
    wanted = plan_packs(lengths, 24, [0, 0, 0, 0])
    assert [[cursor.row for cursor in item.rows] for item in items] == [
        wanted[i].tolist() for i in range(len(wanted))
    ]
    first = items[0].rows[0].row
    ids, trained = whole.store.sample(first)
    end = items[0].item["cumulative_len"][1]
    assert items[0].item["input_ids"][:end].tolist() == ids.tolist()
    assert (items[0].item["labels"][:end] != -100).tolist() == trained.tolist()


def test_counts_of_rows_are_logged(bos, tmp_path):
    """At buffers 1, 2, 4, ... and the end of an epoch, with file and line of what was left out."""
    good = json.dumps({"conversation": [{"input": "q", "output": "a"}]})
    lines = [good] * 30 + ["{broken"] + [good] * 30 + ['{"conversation": []}']
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    dataset = stream(load_dataset(tmp_path / "d.jsonl"), bos, buffer_size=40)
    messages = [line for s in epoch_of(dataset, 0, 1) for line in s.messages]
    line = f"{tmp_path / 'd.jsonl'} line"
    assert [is_warning for _, is_warning in messages] == [False, True, False, True]
    assert messages[0][0].startswith(f"data: 40 rows; 1 dropped: 1 with {FAULTY} ({line} 31); ")
    assert messages[2][0].startswith(f"data: 62 rows; 2 dropped: 1 with {FAULTY} ({line} 31), 1 with {EMPTY}")
    assert f"{line} 31 column 2: broken JSON" in messages[1][0]
    with pytest.raises(DataError, match="line 31 column 2"):
        next(stream(load_dataset(tmp_path / "d.jsonl"), bos, buffer_size=40, strict=True).read())


def test_a_buffer_of_long_texts_has_fewer_rows(bos, monkeypatch):
    """The rows in memory are bounded in characters too."""
    monkeypatch.setattr("xtuner.dataset.items.streamed.BUFFER_CHARACTERS", 100)
    rows = [{"conversation": [{"input": "q" * 40, "output": "a"}]} for _ in range(9)]
    found = list(itertools.islice(stream(rows, bos, max_length=64, buffer_size=9).read(), 9))
    assert [s.position.buffer for s in found if s.position.epoch == 0] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_other_fields_stay_with_an_unpacked_item(bos):
    rows = [{"image": f"{n}.jpg", "conversation": [{"input": "q", "output": "a"}]} for n in range(3)]
    items = epoch_of(stream(rows, bos, pack_to_max_length=False, shuffle_before_pack=False), 0, 1)
    assert [s.item["image"] for s in items] == ["0.jpg", "1.jpg", "2.jpg"]
    assert "image" not in epoch_of(stream(rows, bos), 0, 1)[0].item


def test_the_key_tells_data_and_settings_apart(bos, tmp_path):
    """Checked on resume: the same files elsewhere are the same data, a longer file is other data."""
    key = lambda rows, **more: stream(rows, bos, **more).key  # noqa: E731
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, same = files_of(tmp_path / "a", 20), files_of(tmp_path / "b", 20)
    assert key(one) == key(same)
    others = [key(one, seed=1), key(one, buffer_size=6), key(one, max_length=25), key(rows_of(20))]
    with open(tmp_path / "b" / "1.jsonl", "a") as file:
        file.write("\n" + json.dumps(rows_of(1)[0]))
    assert len({key(one), key(same), *others}) == 6


def test_a_stream_can_be_sent_to_another_process(bos, tmp_path):
    dataset = stream(files_of(tmp_path, 9), bos)
    sent = pickle.loads(pickle.dumps(dataset))
    assert as_lists(itertools.islice(sent.read(), 5)) == as_lists(itertools.islice(dataset.read(), 5))


def test_places_name_file_and_line(bos, tmp_path):
    dataset = stream(files_of(tmp_path, 9), bos, pack_to_max_length=False, shuffle_before_pack=False)
    places = [dataset.source_places(s.rows) for s in epoch_of(dataset, 0, 1)]
    assert places[1] == [f"{tmp_path / '0.jsonl'} line 3"]
    assert places[-1] == [f"{tmp_path / '1.jsonl'} line 9"]


def test_settings_that_cannot_work_are_refused(bos):
    for more, message in [
        ({"max_dataset_length": 5}, "max_dataset_length picks from all rows"),
        ({"do_dataset_tokenization": False}, "tokenised already are not streamed"),
        ({"buffer_size": 0}, "buffer_size is 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            stream(rows_of(3), bos, **more)
    with pytest.raises(DataError, match="the data is empty"):
        next(stream([], bos).read())


def test_a_stream_of_the_datasets_library_is_refused(bos):
    """It cannot be read from a given row on; files can."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(rows_of(3)).to_iterable_dataset()
    for given_rows in (rows, datasets.IterableDatasetDict(train=rows)):
        with pytest.raises(DataError, match="leave streaming=True out of load_dataset"):
            stream(given_rows, bos)
