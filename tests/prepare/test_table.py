"""A table becomes conversations; what cannot be used is counted and named."""

import json

import pytest

from xtuner.errors import ConfigError, DataError, NotFoundError
from xtuner.prepare.table import convert_table


def csv_of(folder, text, encoding="utf-8", name="t.csv"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def one(question, answer, **more):
    return {"conversation": [{**more, "input": question, "output": answer}]}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_with_a_system_text(tmp_path, mark, end):
    """Quoted commas, quotes and line breaks stay; a mark in front of the file is not part of a name."""
    source = csv_of(tmp_path, f'{mark}q , a{end}"What, ""me""?\nreally",Yes.{end}{end}你是谁,小助手{end}')
    count, left_out = convert_table(source, tmp_path / "d.jsonl", "q", "a", system="Be kind.")
    assert (count, left_out.counts) == (2, {})
    assert rows_of(tmp_path / "d.jsonl") == [
        one('What, "me"?\nreally', "Yes.", system="Be kind."),
        one("你是谁", "小助手", system="Be kind."),
    ]


def test_a_system_column_and_a_list(tmp_path):
    """A `.json` target is one list; an empty system is no system."""
    source = csv_of(tmp_path, "s\tq\ta\nBe brief.\tx\t1\n\ty\t2\n", name="t.tsv")
    convert_table(source, tmp_path / "d.json", "q", "a", system="s")
    assert json.loads((tmp_path / "d.json").read_text()) == [
        one("x", "1", system="Be brief."),
        one("y", "2"),
    ]


def test_what_cannot_be_used_is_named(tmp_path):
    source = csv_of(tmp_path, "q,a\nx,1\n ,2\ny,\nz,3,4\nlast\nw,5,\n")
    count, left_out = convert_table(source, tmp_path / "d.jsonl", "q", "a")
    assert count == 2
    assert str(left_out).replace(str(source), "t.csv").splitlines() == [
        "left out 1: 'q' is empty (t.csv line 3)",
        "left out 2: 'a' is empty (t.csv line 4, t.csv line 6)",
        "left out 1: more cells than the 2 columns (t.csv line 5)",
    ]


def test_a_workbook(tmp_path):
    """Numbers become text; a sheet can be named."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["Question ", "Answer"])
    book.active.append(["How many?", 3])
    book.active.append([None, None])
    book.active.append(["Why?", None])
    other = book.create_sheet("more")
    other.append(["Question", "Answer"])
    other.append(["x", "y"])
    book.save(tmp_path / "t.xlsx")
    count, left_out = convert_table(tmp_path / "t.xlsx", tmp_path / "d.jsonl", "Question", "Answer")
    assert (count, left_out.counts) == (1, {"'Answer' is empty": 1})
    assert rows_of(tmp_path / "d.jsonl") == [one("How many?", "3")]
    convert_table(tmp_path / "t.xlsx", tmp_path / "e.jsonl", "Question", "Answer", sheet="more")
    assert rows_of(tmp_path / "e.jsonl") == [one("x", "y")]
    with pytest.raises(DataError, match=r"has no sheet 'mor'; .* Did you mean 'more'\?"):
        convert_table(tmp_path / "t.xlsx", tmp_path / "f.jsonl", "Question", "Answer", sheet="mor")


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("question,answer\n1,2\n", {}, DataError, "names no column 'qestion'; .* Did you mean 'question'"),
        ("qestion,answer,answer\n1,2,3\n", {}, DataError, "names 2 columns 'answer'"),
        ("", {}, DataError, "is empty: its first line must name the columns"),
        ("qestion,answer\n1,\n", {}, DataError, "has no row with both"),
        ('qestion,answer\n"1,2\n', {}, DataError, "line 2: broken table"),
        ("qestion,answer\n你,2\n", {"encoding": "ascii"}, DataError, "line 2 byte 1: not valid ascii"),
        ("qestion,answer\n1,2\n", {"encoding": "utf9"}, DataError, "there is no encoding 'utf9'"),
    ],
)
def test_a_table_that_cannot_be_read_leaves_nothing(tmp_path, text, options, error, message):
    source = csv_of(tmp_path, text)
    with pytest.raises(error, match=message):
        convert_table(source, tmp_path / "d.jsonl", "qestion", "answer", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_damaged_workbook_and_a_table_with_semicolons(tmp_path):
    """As in training: the first named in one line, the other read."""
    workbook = tmp_path / "t.xlsx"
    workbook.write_bytes(b"PK no workbook")
    with pytest.raises(DataError, match=r"t\.xlsx: not a workbook, or a damaged one"):
        convert_table(workbook, tmp_path / "d.jsonl", "q", "a")
    convert_table(csv_of(tmp_path, "q;a\n1,5;2\n"), tmp_path / "d.jsonl", "q", "a")
    assert rows_of(tmp_path / "d.jsonl") == [one("1,5", "2")]


def test_gbk_is_read_when_named(tmp_path):
    source = csv_of(tmp_path, "问,答\n你好,您好\n", "gbk")
    with pytest.raises(DataError, match="--encoding gbk"):
        convert_table(source, tmp_path / "d.jsonl", "问", "答")
    convert_table(source, tmp_path / "d.jsonl", "问", "答", encoding="gbk")
    assert rows_of(tmp_path / "d.jsonl") == [one("你好", "您好")]


def test_nothing_is_overwritten_unasked(tmp_path):
    source = csv_of(tmp_path, "q,a\nx,1\n")
    (tmp_path / "d.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="exists: pass --force"):
        convert_table(source, tmp_path / "d.jsonl", "q", "a")
    with pytest.raises(ConfigError, match="is read by this command"):
        convert_table(source, source, "q", "a", force=True)
    assert (tmp_path / "d.jsonl").read_text() == "mine"
    convert_table(source, tmp_path / "d.jsonl", "q", "a", force=True)
    assert rows_of(tmp_path / "d.jsonl") == [one("x", "1")]
    with pytest.raises(NotFoundError, match=r"none.csv does not exist"):
        convert_table(tmp_path / "none.csv", tmp_path / "e.jsonl", "q", "a")
