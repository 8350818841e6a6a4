"""The token store: what goes in comes out, and it is complete or absent whatever happens meanwhile."""

import errno
import itertools
import pickle
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtuner.cache import cache_folder
from xtuner.dataset.encoding.conversations import Encoded
from xtuner.dataset.items.store import StoreWriter, TokenStore, open_or_write
from xtuner.errors import DataError

KEYS = itertools.count()
SAMPLE = st.lists(st.tuples(st.integers(-200, 2**31 - 1), st.booleans()), max_size=12)


def encoded(samples):
    lengths = [len(sample) for sample in samples]
    flat = [token for sample in samples for token in sample]
    zeros = np.zeros(len(samples), np.int64)
    return Encoded(
        np.array([token for token, _ in flat], np.int32),
        np.array([trained for _, trained in flat], bool),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(samples)),
        zeros,
        zeros,
    )


def write(*chunks):
    def run(writer):
        first = 0
        for samples in chunks:
            writer.append(encoded(samples), np.arange(first, first + len(samples)))
            first += len(samples)
        return {"stats": {"rows": first}}

    return run


def read(store):
    samples = [store.sample(i) for i in range(len(store))]
    return [list(zip(ids.tolist(), trained.tolist(), strict=True)) for ids, trained in samples]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(SAMPLE, max_size=4), max_size=4))
def test_samples_come_back_as_written(chunks):
    """Ids, flags and row numbers survive, in any number of chunks, also empty ones."""
    key = next(KEYS)
    store = open_or_write(f"{key}", write(*chunks))
    samples = [sample for chunk in chunks for sample in chunk]
    assert read(store) == samples
    assert store.rows.tolist() == list(range(len(samples)))
    assert store.lengths.tolist() == [len(sample) for sample in samples]
    assert read(pickle.loads(pickle.dumps(store))) == samples
    joined = open_or_write(f"{key}-joined", write(samples))
    assert joined.content_hash == store.content_hash, "the chunks must not show in the hash"


def test_samples_can_be_left_out():
    """Only those marked are written, with their row numbers."""

    def run(writer):
        keep = np.array([True, False, True])
        writer.append(encoded([[(1, True)], [(2, True)], [(3, False)]]), np.array([5, 6, 7]), keep)
        return {}

    store = open_or_write("k", run)
    assert (read(store), store.rows.tolist()) == ([[(1, True)], [(3, False)]], [5, 7])


def test_a_store_is_written_once():
    """The second time nothing is made, only mapped."""
    open_or_write("k", write([[(1, True)]]))
    store = open_or_write("k", lambda writer: pytest.fail("written again"))
    assert read(store) == [[(1, True)]]


def test_a_store_is_absent_when_writing_fails(cache):
    """An interruption leaves nothing behind that looks like a store."""

    def stop(writer):
        writer.append(encoded([[(1, True)]]), np.array([0]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_write("k", stop)
    assert sorted(path.name for path in (cache / "tokens").iterdir()) == []
    assert read(open_or_write("k", write([[(2, True)]]))) == [[(2, True)]]


@pytest.mark.parametrize("name", ["ids.bin", "about.json"])
def test_a_damaged_store_is_made_again(cache, name):
    """A file that is cut or missing is found before it is read."""
    open_or_write("k", write([[(1, True), (2, False)]]))
    damaged = cache / "tokens" / "k" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert read(open_or_write("k", write([[(3, True)]]))) == [[(3, True)]]


def test_what_a_killed_process_left_is_cleared_away(cache):
    """Half a store of an earlier try does not stay on the disk."""
    left = cache / "tokens" / ".k.part"
    left.mkdir(parents=True)
    open_or_write("k", write([[(1, True)]]))
    assert not left.exists()


def test_processes_that_want_the_same_store_wait_for_the_first():
    """Of several at once one writes and all read the same."""
    written, results = [], []
    begin = threading.Barrier(4)

    def run(writer):
        written.append(1)
        return write([[(1, True)]])(writer)

    def work():
        begin.wait()
        results.append(read(open_or_write("k", run)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (written, results) == ([1], [[[(1, True)]]] * 4)


def test_a_full_disk_is_one_clear_line(cache, monkeypatch):
    """The message names the folder and the cure, and no incomplete store is left."""

    def full(self, name, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_write", full)
        with pytest.raises(DataError, match=r"No space left on device.*XTUNER_CACHE"):
            open_or_write("k", write([[(1, True)]]))
    assert [path.name for path in (cache / "tokens").iterdir()] == []


@pytest.mark.parametrize("name", ["ids", "trained", "ends", "rows"])
def test_a_store_with_a_flipped_bit_is_made_again(cache, name, caplog):
    """In any file: no wrong token or label is used; it is logged, as a disk may be failing."""
    open_or_write("k", write([[(1, True), (2, False)]]))
    damaged = cache / "tokens" / "k" / f"{name}.bin"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 0x40
    damaged.write_bytes(content)
    assert read(open_or_write("k", write([[(3, True)]]))) == [[(3, True)]]
    assert f"are damaged ({name}.bin): they are made again" in caplog.text


def test_a_home_that_cannot_be_written_to_is_replaced(monkeypatch, tmp_path):
    """Without a writable home the temporary folder serves."""
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("XTUNER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert cache_folder().parent == tmp_path


def test_a_store_of_another_layout_is_made_again(cache):
    """A store of an earlier version under the same key is not read."""
    open_or_write("k", write([[(1, True)]]))
    about = cache / "tokens" / "k" / "about.json"
    about.write_text(about.read_text().replace('"layout": 3', '"layout": 2'))
    assert read(open_or_write("k", write([[(3, True)]]))) == [[(3, True)]]


def test_a_store_takes_at_most_4_2_bytes_a_token():
    """1,000 samples of 110 tokens: 4 bytes and a bit a token, 8 bytes a sample, all files counted."""
    samples = [[(i, i % 3 == 0) for i in range(110)]] * 1000
    store = open_or_write("k", write(samples[:400], samples[400:]))
    size = sum(file.stat().st_size for file in store.folder.iterdir())
    assert size / 110_000 <= 4.2
    assert read(store) == samples


def test_ends_beyond_32_bits_come_back(monkeypatch):
    """The same with a limit so small that one sample passes it several times, and others exactly."""
    monkeypatch.setattr("xtuner.dataset.items.store._LIMIT", 8)
    chunks = [
        [[(i, True)] * n for i, n in enumerate(lengths)] for lengths in ([3, 5, 0, 30], [1], [8, 16, 2])
    ]
    store = open_or_write("k", write(*chunks))
    ends = np.cumsum([len(sample) for chunk in chunks for sample in chunk])
    assert [store._end(i) for i in range(len(store))] == ends.tolist()
    assert read(store) == [sample for chunk in chunks for sample in chunk]


def test_lengths_wrap_around():
    """Two ends on both sides of 2 ** 32 are as far apart as the sample between them is long."""
    ends = np.array([2**32 - 5, 2, 9], np.uint32)
    assert np.diff(ends, prepend=np.uint32(0)).tolist() == [2**32 - 5, 7, 7]


def test_an_open_store_is_small_to_send():
    """A worker process opens the files itself."""
    store = open_or_write("k", write([[(i, True)] for i in range(10_000)]))
    assert len(pickle.dumps(store)) < 500
    assert isinstance(store, TokenStore)


def test_a_column_is_kept_beside_the_samples(caplog):
    """It is read as it was written; a damaged one makes the store anew."""

    def write_one(writer):
        about = write([[(1, True)]])(writer)
        writer.add_column("scores", np.array([0.5, 2]))
        return about

    store = open_or_write("k", write_one)
    assert store.column("scores").tolist() == [0.5, 2]
    (store.folder / "scores.npy").write_bytes(b"other")
    assert open_or_write("k", write_one).column("scores").tolist() == [0.5, 2]
    assert "are damaged (scores.npy): they are made again" in caplog.text
