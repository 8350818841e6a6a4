"""Every row goes to exactly one part, in its old order."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.errors import ConfigError, DataError
from xtuner.prepare.split import assign, parse_ratio, split_rows


def lines_of(path):
    return path.read_text("utf-8").splitlines()


def jsonl_of(folder, numbers):
    source = folder / "all.jsonl"
    source.write_text("".join(f'{{"n": {n}, "t": "你"}}\n' for n in numbers), "utf-8")
    return source


def test_seven_to_three(tmp_path):
    """The lines are copied as they are; the same seed gives the same parts, another seed others."""
    source = jsonl_of(tmp_path, range(10))
    split = split_rows(source, [0.7, 0.3], 0, tmp_path)
    assert {path.name: count for path, count in split.counts.items()} == {"train.jsonl": 7, "test.jsonl": 3}
    train, test = lines_of(tmp_path / "train.jsonl"), lines_of(tmp_path / "test.jsonl")
    assert sorted(train + test) == sorted(lines_of(source))
    assert train == sorted(train)
    split_rows(source, [0.7, 0.3], 0, tmp_path / "again")
    assert lines_of(tmp_path / "again" / "train.jsonl") == train
    split_rows(source, [0.7, 0.3], 1, tmp_path / "other")
    assert lines_of(tmp_path / "other" / "train.jsonl") != train


def test_a_list_is_split_too_and_three_parts_have_names(tmp_path):
    source = tmp_path / "all.json"
    source.write_text(json.dumps([{"n": n} for n in range(10)], indent=1))
    split_rows(source, parse_ratio("8:1:1"), 0, tmp_path)
    sizes = {name: len(lines_of(tmp_path / f"{name}.jsonl")) for name in ("train", "val", "test")}
    assert sizes == {"train": 8, "val": 1, "test": 1}


def test_bad_lines_are_named_and_shared_rows_counted(tmp_path):
    source = jsonl_of(tmp_path, [1] * 10)
    with open(source, "a") as file:
        file.write("{broken\n\n[1]\n")
    split = split_rows(source, [0.5, 0.5], 0, tmp_path)
    assert split.left_out.counts == {"not valid JSON": 1, "not an object": 1}
    assert "all.jsonl line 11: Expecting property name" in str(split.left_out)
    assert "all.jsonl line 13)" in str(split.left_out)
    assert split.num_shared == 5


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_fractions_are_exact_but_for_rounding(count, a, b, seed):
    sizes = np.bincount(assign(count, [a / (a + b), b / (a + b)], seed), minlength=2)
    assert sizes.sum() == count
    assert abs(sizes[0] - count * a / (a + b)) <= 0.5 + 1e-9


@pytest.mark.parametrize("text", ["7", "7:3:1:1", "a:b", "7:0", "nan:1", "-1:2", ""])
def test_a_ratio_that_cannot_be_meant(text):
    with pytest.raises(ConfigError, match="--ratio is"):
        parse_ratio(text)


def test_a_chinese_colon_is_a_colon():
    assert parse_ratio("7：3") == [0.7, 0.3]


def test_on_failure_no_part_is_left(tmp_path):
    with pytest.raises(DataError, match="has 1 row, too few for 2 parts"):
        split_rows(jsonl_of(tmp_path, [1]), [0.5, 0.5], 0, tmp_path)
    (tmp_path / "test.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"test.jsonl exists"):
        split_rows(jsonl_of(tmp_path, range(9)), [0.5, 0.5], 0, tmp_path)
    (tmp_path / "t.csv").write_text("a")
    with pytest.raises(DataError, match="xtuner preprocess table"):
        split_rows(tmp_path / "t.csv", [0.5, 0.5], 0, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.jsonl", "t.csv", "test.jsonl"]
