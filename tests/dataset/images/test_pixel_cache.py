"""Pixels on the disk: made once, never wrong, never more than allowed."""

import multiprocessing
import os
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtuner.dataset.images.pixel_cache import PixelCache
from xtuner.errors import ConfigError


def pixels(number, count=64):
    return {
        "pixel_values": torch.full((2, count), float(number)),
        "grid": torch.tensor([[1, number, 3]]),
        "half": torch.full((3,), number, dtype=torch.bfloat16),
    }


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first
    )


def never():
    raise AssertionError("it is in the cache")


def files(cache):
    return [path for path in cache.folder.rglob("*") if path.is_file()]


def got(cache, identity, make):
    """The tensors of one image."""
    return cache.get([identity], lambda numbers: (make() for _ in numbers))[0]


def test_pixels_are_made_once(tmp_path):
    """The same tensors of the same types are read again; other settings give other entries."""
    cache = PixelCache(tmp_path / "p", 10**6, "a")
    assert same(got(cache, ("x", 1), lambda: pixels(1)), pixels(1))
    assert same(got(cache, ("x", 1), never), pixels(1))
    assert same(got(PixelCache(tmp_path / "p", 10**6, "a"), ("x", 1), never), pixels(1))
    assert same(got(PixelCache(tmp_path / "p", 10**6, "b"), ("x", 1), lambda: pixels(2)), pixels(2))
    assert same(got(cache, ("x", 2), lambda: pixels(3)), pixels(3))


def test_missing_ones_are_made_together(tmp_path):
    """In the order of the images."""
    cache = PixelCache(tmp_path, 10**6, "")
    got(cache, (1,), lambda: pixels(1))
    asked = []
    found = cache.get([(0,), (1,), (2,)], lambda numbers: asked.append(numbers) or map(pixels, numbers))
    assert asked == [[0, 2]]
    assert all(same(one, pixels(number)) for number, one in enumerate(found))
    assert same(got(cache, (2,), never), pixels(2))


@pytest.mark.parametrize("damage", [lambda c: c[:-5], lambda c: c[:60] + b"?" + c[61:], lambda c: b""])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    cache = PixelCache(tmp_path, 10**6, "")
    got(cache, (1,), lambda: pixels(1))
    (file,) = files(cache)
    file.write_bytes(damage(file.read_bytes()))
    assert same(got(cache, (1,), lambda: pixels(1)), pixels(1))
    assert same(got(cache, (1,), never), pixels(1))


def test_the_least_recently_used_are_removed(tmp_path):
    """Reading an entry counts as use."""
    cache = PixelCache(tmp_path, 10**6, "")
    for number in range(4):
        got(cache, (number,), lambda number=number: pixels(number))
        (file,) = [path for path in files(cache) if path == cache._path((number,))]
        os.utime(file, (number + 1000, number + 1000))
    got(cache, (0,), never)
    one = cache.size() // 4
    small = PixelCache(tmp_path, 5 * one, "")
    got(small, (9,), lambda: pixels(9))
    left = [number for number in (0, 1, 2, 3, 9) if small._path((number,)).exists()]
    assert left == [0, 3, 9]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 6000),
    uses=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 500)), max_size=25),
)
def test_it_is_never_wrong_and_never_too_large(tmp_path_factory, limit, uses):
    """After any uses of images of any size, within any limit."""
    cache = PixelCache(tmp_path_factory.mktemp("p"), limit, "")
    for number, count in uses:
        found = got(cache, (number, count), lambda number=number, count=count: pixels(number, count))
        assert same(found, pixels(number, count))
        assert cache.size() <= limit


def use(folder, seed):
    cache = PixelCache(folder, 20_000, "")
    for step in range(150):
        number = (step * (seed + 3)) % 40
        assert same(got(cache, (number,), lambda number=number: pixels(number)), pixels(number))
    return cache.size()


def test_several_processes_use_one_folder(tmp_path):
    """They read, write and remove at the same time: all is right, and within the limit."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(use, [(tmp_path, seed) for seed in range(4)])
    cache = PixelCache(tmp_path, 20_000, "")
    assert 0 < cache.size() <= 20_000
    assert not [file for file in files(cache) if file.name.endswith(".part")]


def test_parts_of_killed_processes_are_removed(tmp_path):
    """Those of an hour ago; others may be of a process that still writes."""
    cache = PixelCache(tmp_path, 10**6, "")
    (tmp_path / "aa").mkdir()
    old, new = tmp_path / "aa" / ".x.1.part", tmp_path / "aa" / ".x.2.part"
    for part in (old, new):
        part.write_bytes(b"...")
    os.utime(old, (time.time() - 7200,) * 2)
    got(cache, (1,), lambda: pixels(1))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, caplog):
    """Training goes on without it."""
    (tmp_path / "file").write_text("")
    cache = PixelCache(tmp_path / "file", 10**6, "")
    for _ in range(2):
        assert same(got(cache, (1,), lambda: pixels(1)), pixels(1))
    assert caplog.text.count("pixels cannot be kept in") == 1


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_bytes is 0: it must be at least 1"):
        PixelCache(tmp_path, 0, "")
