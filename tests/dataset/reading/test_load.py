"""Rows of files: the same rows whatever the form of the file, and errors that name file and line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.json_files import JsonFile, JsonLinesFile
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import DataError, NotFoundError

ROWS = [{"q": "你好", "n": 1}, {"q": 'a "b"\n', "n": None}, {"q": "", "n": [1.5, {"x": []}]}]
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def save(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def as_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", json.dumps(ROWS)),
        ("x.json", json.dumps(ROWS, ensure_ascii=False, indent=2)),
        ("x.json", as_lines(ROWS)),
        ("x.json", "\n\n".join(json.dumps(row, indent=1) for row in ROWS)),
        ("x.jsonl", json.dumps(ROWS)),
        ("x.jsonl", as_lines(ROWS) + "\n"),
        ("x.jsonl", "\ufeff" + as_lines(ROWS).replace("\n", "\r\n\r\n")),
        ("x.json", "\ufeff \n" + json.dumps(ROWS)),
    ],
)
def test_json_is_read_in_any_form(tmp_path, name, content):
    """A list, lines or objects one after the other; byte order mark, empty lines and CRLF do no harm."""
    rows = load_dataset(path=save(tmp_path / name, content))["train"]
    assert rows[1] == ROWS[1]
    assert list(rows) == ROWS
    assert (len(rows), rows[-1], rows[1:]) == (3, ROWS[-1], ROWS[1:])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(), VALUE, max_size=3), max_size=5),
    indent=st.sampled_from([None, 1]),
)
def test_every_row_is_read_and_knows_its_line(tmp_path, rows, indent):
    """By iterating and by number, from a list and from lines; the line is that of the row."""
    listed = FileRows([JsonFile(save(tmp_path / "x.json", json.dumps(rows, indent=indent)))])
    lines = FileRows([JsonLinesFile(save(tmp_path / "x.jsonl", as_lines(rows)))])
    for got in (listed, lines):
        assert list(got) == rows
        assert [got[i] for i in range(len(rows))] == rows
    assert [lines.place(i) for i in range(len(rows))] == [
        f"{tmp_path / 'x.jsonl'} line {i + 1}" for i in range(len(rows))
    ]


def test_lines_of_a_list_are_those_where_its_rows_begin(tmp_path):
    """Rows over several lines are named by their first."""
    rows = load_dataset(save(tmp_path / "x.json", '[\n {"a":\n 1},\n\n {"a": 2}, {"a": 3}\n]'))["train"]
    assert [rows.place(i).partition(" line ")[2] for i in range(3)] == ["2", "5, row 2", "5, row 3"]


def test_splits_lists_of_files_and_patterns(tmp_path):
    """`data_files` as users write it: one file, several, by split, with a pattern."""
    one, two = (save(tmp_path / f"{n}.json", json.dumps([{"a": n}])) for n in (1, 2))
    by_split = load_dataset("json", data_files={"train": str(one), "test": [str(two)]})
    assert {name: list(rows) for name, rows in by_split.items()} == {"train": [{"a": 1}], "test": [{"a": 2}]}
    assert list(load_dataset("json", data_files=[one, two], split="train")) == [{"a": 1}, {"a": 2}]
    both = load_dataset("json", data_files=str(tmp_path / "*.json"))["train"]
    assert list(both) == [{"a": 1}, {"a": 2}]
    assert both.place(1) == f"{two} line 1"
    with pytest.raises(DataError, match="no split 'val'; the files have 'train'"):
        load_dataset(str(one), split="val")


def test_tables_give_rows_by_the_names_of_their_first_line(tmp_path):
    """CSV with quoted line breaks and a workbook give the same rows, each with its line."""
    content = 'q,n\n"a\nb",1\n\n你好,\n'
    rows = load_dataset(save(tmp_path / "x.csv", content))["train"]
    assert list(rows) == [{"q": "a\nb", "n": "1"}, {"q": "你好", "n": ""}]
    assert rows.place(1) == f"{tmp_path / 'x.csv'} line 5"
    with pytest.raises(DataError, match=r"x\.csv line 2: 3 cells, but 2 names"):
        list(load_dataset(save(tmp_path / "x.csv", "q,n\n1,2,3\n"))["train"])


def test_a_workbook_is_read(tmp_path):
    """The first sheet of an .xlsx file."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in (["q", "n"], ["你好", 1], [None, None], ["b", None]):
        book.active.append(cells)
    book.save(tmp_path / "x.xlsx")
    rows = load_dataset(tmp_path / "x.xlsx")["train"]
    assert list(rows) == [{"q": "你好", "n": 1}, {"q": "b", "n": None}]
    assert rows.place(1).endswith("x.xlsx line 4")


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    """The message names the searched path and what exists there."""
    save(tmp_path / "data.json", "[]")
    with pytest.raises(NotFoundError, match=r"no data file .*date\.json.*near it: data\.json"):
        load_dataset(str(tmp_path / "date.json"))
    with pytest.raises(NotFoundError, match=r"no data file .*none\.json"):
        load_dataset("json", data_files={"train": str(tmp_path / "none.json")})
    with pytest.raises(NotFoundError, match=r"no data file .*data\.jsn.*near it: data\.json"):
        load_dataset(str(tmp_path / "data.jsn"))
    with pytest.raises(NotFoundError, match="is a folder"):
        load_dataset("json", data_files=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n\n{"a": \xc4\xe3}\n', r"x\.jsonl line 3 byte 7: not valid UTF-8.*iconv"),
        ("x.json", b'[{"a": 1},\n{"a": "\xc4\xe3"}]', r"x\.json line 2 byte 8: not valid UTF-8"),
        ("x.csv", b"q\n\xc4\xe3", r"x\.csv line 2: not valid UTF-8"),
        ("x.jsonl", b'{"a": 1}\n{"a": 1,}\n', r"x\.jsonl line 2 column \d+: broken JSON"),
        ("x.jsonl", b'{"a": 1\n{"a": 2}\n', r"x\.jsonl line 1 column \d+: broken JSON"),
        ("x.json", b'[{"a": 1},\n {"a" 2}]', r"x\.json line 2 column 7: broken JSON"),
        ("x.json", b'[{"a": 1}\n {"a": 2}]', r"x\.json line 2: broken JSON: a comma or \] must follow a row"),
        ("x.json", b'[{"a": 1},\n', r"x\.json line 2 column 1: broken JSON"),
        ("x.json", b'[{"a": 1}]\n[]', r"x\.json line 2: broken JSON: nothing may follow"),
        ("x.jsonl", b'{"a": 1}\n[1, 2]\n', r"x\.jsonl line 2: a row must be an object.*\[1, 2\]"),
        ("x.json", b'[{"a": 1},\n"b"]', r'x\.json line 2: a row must be an object.*"b"'),
        ("x.jsonl", b'{"a": 1}\n' + b"[" * 100_000, r"x\.jsonl line 2.*(nested too deeply|broken JSON)"),
    ],
)
def test_what_is_broken_is_named_by_file_and_line(tmp_path, name, content, message):
    """One clear line for bytes, syntax and shape."""
    rows = load_dataset(save(tmp_path / name, content))["train"]
    with pytest.raises(DataError, match=message):
        list(rows)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv"])
def test_an_empty_file_has_no_rows(tmp_path, name):
    """The user of the rows decides how to handle it."""
    rows = load_dataset(save(tmp_path / name, "\n" if name != "x.csv" else ""))["train"]
    assert (list(rows), len(rows)) == ([], 0)


def test_the_fingerprint_follows_the_content(tmp_path):
    """A changed file is another data set; another name with the same content is not."""
    first = load_dataset(save(tmp_path / "x.json", '[{"a": 1}]'))["train"].fingerprint()
    assert load_dataset(save(tmp_path / "y.json", '[{"a": 1}]'))["train"].fingerprint() == first
    assert load_dataset(save(tmp_path / "x.json", '[{"a": 2}]'))["train"].fingerprint() != first


def test_other_formats_go_to_the_datasets_library(tmp_path, monkeypatch):
    """A Parquet file by its path alone, which the library itself does not take."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.Dataset.from_list([{"a": 1}, {"a": 2}]).to_parquet(tmp_path / "x.parquet")
    rows = load_dataset(tmp_path / "x.parquet", cache_dir=str(tmp_path / "hf"))["train"]
    assert rows.to_list() == [{"a": 1}, {"a": 2}]


def test_options_of_the_datasets_library_still_work(tmp_path):
    """Features of the library, such as a slice of a split, are left to it."""
    pytest.importorskip("datasets")
    save(tmp_path / "x.json", '[{"a": 1}, {"a": 2}, {"a": 3}]')
    rows = load_dataset(
        "json", data_files=str(tmp_path / "x.json"), split="train[:2]", cache_dir=str(tmp_path / "hf")
    )
    assert rows.to_list() == [{"a": 1}, {"a": 2}]


def test_a_name_on_the_hub_without_a_network_is_one_clear_line():
    """The tests run offline, as many machines do."""
    with pytest.raises(
        NotFoundError, match=r"no data set 'someone/something' on this machine.*path of a file"
    ):
        load_dataset("someone/something")


def test_a_folder_or_a_pattern_gives_the_rows_of_all_its_files(tmp_path):
    """Files of several kinds, by name, below the folder too; hidden ones and others are no data."""
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / "b" / "c.json").write_text('[{"n": 3}]')
    (tmp_path / "b" / "d.csv").write_text("n\n4\n")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.jsonl").write_text('{"n": 9}')
    parquet.write_table(pyarrow.table({"n": [5, 6, 7]}), tmp_path / "e.parquet", row_group_size=2)
    rows = load_dataset(tmp_path)["train"]
    assert [int(row["n"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [rows[i]["n"] for i in (4, 6, 5)] == [5, 7, 6]
    assert rows.place(6) == f"{tmp_path / 'e.parquet'} row 3"
    rows = load_dataset(str(tmp_path / "**" / "*.json*"), split="train")
    assert [row["n"] for row in rows] == [1, 2, 3]


def test_a_folder_with_splits_is_left_to_datasets(tmp_path):
    """Files named after splits become splits."""
    (tmp_path / "train.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "test.jsonl").write_text('{"n": 2}\n')
    splits = load_dataset(tmp_path)
    assert {name: rows[0]["n"] for name, rows in splits.items()} == {"train": 1, "test": 2}


def test_files_that_cannot_be_read_together_and_patterns_without_any(tmp_path):
    """A broken table, several kinds that `datasets` would have to read, nothing at all."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "b.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"kinds \(\.jsonl, \.txt\) cannot be read together"):
        load_dataset(str(tmp_path / "a.*"))
    with pytest.raises(DataError, match="not a Parquet file"):
        list(load_dataset(str(tmp_path / "[ab].[jp]*"), split="train"))
    with pytest.raises(NotFoundError, match="no data file"):
        load_dataset(str(tmp_path / "x*.jsonl"))
