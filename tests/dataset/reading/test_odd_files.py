"""Files as people have them: odd characters, packed, damaged, from elsewhere."""

import bz2
import gzip
import http.server
import itertools
import json
import lzma
import os
import threading
import urllib.error

import pytest
import zstandard

from xtuner.cache import cache_folder
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import auto_map_fn
from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.tables import ParquetFile
from xtuner.errors import DataError, NotFoundError

PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
BREAKS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", logger="xtuner")
    return lambda: caplog.text


def save_rows(path, rows):
    """Write them to a file of the kind that its name tells."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    text = "".join(f"{line}\n" for line in (lines if path.suffix == ".csv" else map(json.dumps, rows)))
    path.write_text(json.dumps(rows) if path.suffix == ".json" else text, encoding="utf-8")


def rows_of(path, **more):
    return list(load_dataset(str(path), split="train", **more))


def test_only_line_breaks_end_a_row_of_a_table(tmp_path):
    """Not the other characters that Python takes for breaks, nor a single carriage return in quotes."""
    cell = f"Never do this.{BREAKS}Except on Sundays."
    path = tmp_path / "x.csv"
    path.write_text(f'q,a\r\n{cell},"a\rb\nc"\r\nq,a\r', encoding="utf-8", newline="")
    assert rows_of(path) == [{"q": cell, "a": "a\rb\nc"}, {"q": "q", "a": "a"}]


@pytest.mark.parametrize(("mark", "suffix"), [(";", ".csv"), ("\t", ".csv"), ("|", ".csv"), ("|", ".tsv")])
def test_the_separator_of_a_table_is_found(tmp_path, mark, suffix, said):
    """Semicolons as in German spreadsheets, tabs, bars; logged if it is not the usual one."""
    path = tmp_path / f"x{suffix}"
    path.write_text(f'q{mark}a\n"1, 2{mark}"{mark}x, y\n', encoding="utf-8")
    assert rows_of(path) == [{"q": f"1, 2{mark}", "a": "x, y"}]
    assert f"cells of {path} are separated by {mark!r}" in said()


@pytest.mark.parametrize(("mark", "suffix"), [(";", ".csv"), ("\t", ".tsv")])
def test_a_line_with_more_cells_hides_no_separator(tmp_path, mark, suffix):
    """That line alone is at fault."""
    path = tmp_path / f"x{suffix}"
    path.write_text(f"q{mark}a\n1,5{mark}2\n3,5{mark}4{mark}5\n", encoding="utf-8")
    rows = load_dataset(str(path), split="train")
    assert rows[0] == {"q": "1,5", "a": "2"}
    with pytest.raises(DataError, match=rf"x\{suffix} line 3: 3 cells, but 2 names in line 1"):
        rows[1]


def test_a_comma_stays_the_separator_if_cells_hold_others(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("q;r,a\n1;2,3\n4,5;6\n", encoding="utf-8")
    assert rows_of(path) == [{"q;r": "1;2", "a": "3"}, {"q;r": "4", "a": "5;6"}]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_a_packed_file_is_read_as_the_file_in_it(tmp_path, kind):
    """The same rows, texts of digits too, and the same places."""
    rows = [{"q": "0012", "a": "x"}, {"q": "y", "a": "1"}]
    lines = ["q,a", *(f"{row['q']},{row['a']}" for row in rows)] if kind == ".csv" else map(json.dumps, rows)
    text = json.dumps(rows, indent=0) if kind == ".json" else "\n".join(lines)
    for suffix, pack in PACKERS.items():
        path = tmp_path / f"x{kind}{suffix}"
        path.write_bytes(pack(text[:9].encode()) + pack(text[9:].encode()))
        found = load_dataset(str(path), split="train")
        assert list(found) == rows
        assert found.place(1).startswith(f"{path} line ")
        assert load_dataset(str(path), split="train")[1] == rows[1]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_packed_file_that_is_cut_off_is_named(tmp_path, suffix):
    """None of its rows is taken for all of them, wherever it is cut."""
    whole = PACKERS[suffix](b"".join(b'{"a": %d}\n' % n for n in range(5_000)))
    path = tmp_path / f"x.jsonl{suffix}"
    for size in (5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"x\.jsonl{suffix}: damaged or cut off: "):
            rows_of(path)


def test_wrongly_typed_rows_of_a_packed_file_change_no_others(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": "0012"}\n{"a": 12}\n'))
    assert rows_of(path) == [{"a": "0012"}, {"a": 12}]


DEEP = b"[" * 20_000
HUGE = b'{"a": ' + b"1" * 5_000 + b"}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n' + HUGE, r"x\.jsonl line 2: a number has more than 4,300 digits"),
        ("x.json", b"[" + HUGE + b"]", r"x\.json line 1: a number has more than 4,300 digits"),
        (
            "x.jsonl",
            b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n",
            r"x\.jsonl line 1: .*nested too deeply",
        ),
        ("x.json", DEEP, r"x\.json line 1.*(nested too deeply|broken JSON)"),
        (
            "x.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' + DEEP, mtime=0),
            r"x\.jsonl\.gz line 2.*(too deeply|broken JSON)",
        ),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], r"x\.jsonl\.gz: damaged or cut off"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz: damaged or cut off"),
        ("x.jsonl.xz", b"no xz", r"x\.jsonl\.xz: damaged or cut off"),
        (
            "x.jsonl",
            '{"a": 1}\n'.encode("utf-16le"),
            r"x\.jsonl line 1: not valid UTF-8.* from UTF-16LE: iconv",
        ),
        ("x.csv", "q,a\n1,2\n".encode("utf-16be"), r"x\.csv line 1: not valid UTF-8.* from UTF-16BE: iconv"),
        ("x.json", "[1]".encode("utf-32"), r"x\.json line 1.*: not valid UTF-8.* from UTF-32: iconv"),
        (
            "x.json",
            b"version https://git-lfs.github.com/spec/v1\noid ...",
            r"x\.json is a pointer of git-lfs",
        ),
        ("x.jsonl.zst", b"no zst", r"x\.jsonl\.zst: damaged or cut off"),
        ("x.parquet.gz", gzip.compress(b"PAR1", mtime=0), r"x\.parquet\.gz: not a Parquet file"),
        ("x.xlsx", b"PK no workbook", r"x\.xlsx: not a workbook, or a damaged one"),
        ("x.xls", b"\xd0\xcf\x11\xe0", r"x\.xls"),
        ("x.parquet", b"PAR1 damaged PAR1", r"x\.parquet: not a Parquet file, or a damaged one"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, name, content, message):
    """One line with the file, and the line if there are lines."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name)


def test_a_parquet_file_whose_pages_are_damaged_is_named(tmp_path):
    """Its footer tells of rows that cannot be read."""
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["word"] * 5_000}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.parquet: not a Parquet file, or a damaged one"):
        rows_of(path)


def test_one_broken_row_does_not_end_a_run(tmp_path, tokenizers):
    """A number that is too long, brackets without end: left out and counted, as any broken row."""
    good = b'{"instruction": "q", "output": "a"}\n'
    path = tmp_path / "x.jsonl"
    path.write_bytes(good * 50 + HUGE + b"\n" + DEEP + b"\n")
    data = process_hf_dataset(
        load_dataset(str(path)), tokenizer=tokenizers["bos"], max_length=64, dataset_map_fn="auto"
    )
    assert data.stats["dropped"] == {"a fault in them": 2}


def test_rows_of_one_line_are_told_apart(tmp_path):
    """In a `.json` file without line breaks by their numbers."""
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, 3]', encoding="utf-8")
    rows = load_dataset(str(path), split="train")
    with pytest.raises(DataError, match=r"x\.json line 1, row 3: a row must be an object"):
        list(rows)
    assert [rows.place(number) for number in (0, 1)] == [f"{path} line 1, row 1", f"{path} line 1, row 2"]


@pytest.mark.parametrize("name", ["data", "train", "examples", "rows"])
def test_a_list_under_a_name_is_the_rows(tmp_path, name, said):
    """`{"version": 1, "data": [...]}`, logged once; an object that is a row stays a row."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"version": 1, name: [{"q": "1"}, {"q": "2"}]}, indent=1), encoding="utf-8")
    found = load_dataset(str(path), split="train")
    assert list(found) == [{"q": "1"}, {"q": "2"}]
    assert found[1] == {"q": "2"}
    assert f"the rows of {path} are those under {name!r}" in said()
    path.write_text(json.dumps({name: [{"q": "1"}], "test": [{"q": "2"}]}), encoding="utf-8")
    assert rows_of(path) == [{"q": "1"}]
    assert f"the rows of {path} are those under {name!r}; those under 'test' are left out" in said()
    path.write_text(json.dumps({name: []}), encoding="utf-8")
    assert rows_of(path) == []


def test_a_row_that_holds_a_list_is_a_row(tmp_path):
    """Where others follow, or the name of its list tells of something else."""
    row = {"messages": [{"role": "user", "content": "q"}]}
    several = {"question": "q", "items": [{"price": 1}]}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    assert rows_of(path) == [row]
    path.write_text(json.dumps(several) + "\n" + json.dumps(several), encoding="utf-8")
    assert rows_of(path) == [several, several]


@pytest.mark.parametrize(
    "names",
    [
        ("Question", "Answer"),
        ("问题", "回答"),
        ("INSTRUCTION", "Output"),
        ("提问", "答案"),
        ("prompt ", "Response"),
    ],
)
def test_columns_are_known_by_other_spellings(names, said):
    """Capitals, spaces and Chinese names; logged once."""
    row = dict(zip(names, ("q", "a"), strict=True))
    assert auto_map_fn(row)["conversation"][0]["output"] == "a"
    assert f"{names[0]!r}" in said()


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    """By save_to_disk, of one split or of several."""
    import datasets

    table = datasets.Dataset.from_list([{"q": "1", "a": "2"}])
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "two")
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two") == [{"q": "1", "a": "2"}]
    assert list(load_dataset(str(tmp_path / "two"))) == ["train", "test"]


@pytest.fixture
def server(tmp_path):
    """A web server for the files of a folder."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=lambda: found.serve_forever(0.01), daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", tmp_path / "www"
        found.shutdown()


def streamed(path, tokenizer, **more):
    """The items of a file, five rows at a time."""
    rows = FileRows([ParquetFile(path)]) if path.suffix == ".parquet" else load_dataset(str(path))
    options = {"streaming": True, "buffer_size": 5, "max_length": 64, "dataset_map_fn": "auto"}
    return process_hf_dataset(rows, tokenizer=tokenizer, **options, **more)


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("size", [0, 0.5, 2])
def test_a_streamed_file_that_changes_ends_the_run(tmp_path, tokenizers, kind, size):
    """Cut at a row or within one, emptied or made longer: noticed at the next buffer, or the next epoch."""
    path = tmp_path / f"x{kind}"
    save_rows(path, [{"question": f"{n:06}", "answer": "a"} for n in range(40)])
    items = streamed(path, tokenizers["bos"], pack_to_max_length=False).read()
    for _ in range(4):
        next(items)
    content = path.read_bytes()
    path.write_bytes((content * 2)[: int(len(content) * size)])
    with pytest.raises(DataError, match=rf"x\{kind} changed during the run, from [\d,]+ to [\d,]+ bytes"):
        list(itertools.islice(items, 80))


def test_a_streamed_file_that_is_replaced_by_itself_is_read_on(tmp_path, tokenizers, said):
    path = tmp_path / "x.jsonl"
    save_rows(path, [{"question": f"{n:06}", "answer": "a"} for n in range(40)])
    items = streamed(path, tokenizers["bos"], pack_to_max_length=False).read()
    next(items)
    os.utime(path, (1, 1))
    assert len(list(itertools.islice(items, 80))) == 80
    assert said().count("was written to during the run") == 1


def test_a_file_that_changes_while_it_is_tokenised_leaves_no_tokens(tmp_path, tokenizers):
    """Or they would be found again under the name of what it was before."""
    path = tmp_path / "x.jsonl"
    save_rows(path, [{"question": "q", "answer": "a"}] * 40)
    content = path.read_bytes()

    def change(row):
        path.write_bytes(content.replace(b'"a"}', b'"b"}'))
        return auto_map_fn(row)

    with pytest.raises(DataError, match=r"x\.jsonl changed while it was read: start again"):
        process_hf_dataset(
            load_dataset(str(path)), tokenizer=tokenizers["bos"], max_length=64, dataset_map_fn=change
        )
    assert not list((cache_folder() / "tokens").glob("*/about.json"))


def test_a_file_elsewhere_is_fetched_once(server, said):
    """By http; cached, named as the URL, and downloaded again only if it has changed."""
    address, folder = server
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n[2]\n'))
    found = load_dataset(f"{address}/x.jsonl.gz", split="train")
    assert found[0] == {"a": 1}
    assert found.place(1) == f"{address}/x.jsonl.gz line 2"
    assert said().count("downloading") == 1
    rows_of_first = load_dataset(f"{address}/x.jsonl.gz", split="train")
    assert rows_of_first[0] == {"a": 1}
    assert said().count("downloading") == 1
    assert any((cache_folder() / "fetched").iterdir())
    with pytest.raises(NotFoundError, match=r"http://127.0.0.1:\d+/none.jsonl cannot be downloaded: .*404"):
        load_dataset(f"{address}/none.jsonl")
    with pytest.raises(DataError, match=r"/rows does not end like a data file \(\.json, \.jsonl, "):
        load_dataset(f"{address}/rows")
    with pytest.raises(DataError, match=r"s3://bucket/x\.jsonl needs the package s3fs"):
        load_dataset("s3://bucket/x.jsonl")


@pytest.fixture
def odd_server():
    """A web server whose answers are not what they should be."""
    answers = {
        "/cut.jsonl": ({"Content-Length": "1000"}, b'{"a": 1}\n'),
        "/page.jsonl": ({"Content-Type": "text/html; charset=utf-8"}, b"<html>"),
        "/packed.jsonl": ({"Content-Encoding": "gzip"}, gzip.compress(b'{"a": 1}\n')),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            headers, content = answers[self.path]
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=lambda: found.serve_forever(0.01), daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", answers
        found.shutdown()


def test_what_is_cut_on_its_way_or_is_a_page_is_named(odd_server):
    """No part of a file is taken for the whole; a file that is packed for its way is unpacked."""
    address, answers = odd_server
    with pytest.raises(
        NotFoundError, match=r"cut\.jsonl cannot be downloaded: the connection ended 991 bytes be"
    ):
        load_dataset(f"{address}/cut.jsonl")
    with pytest.raises(DataError, match=r"page\.jsonl is a web page, not a data file"):
        load_dataset(f"{address}/page.jsonl")
    assert rows_of(f"{address}/packed.jsonl") == [{"a": 1}]
    # Nothing tells when it was changed.
    answers["/packed.jsonl"] = ({}, b'{"a": 2}\n')
    assert rows_of(f"{address}/packed.jsonl") == [{"a": 2}]


def test_a_file_that_was_fetched_is_there_without_a_network(server, said, monkeypatch):
    """The copy of an earlier run is used, which is logged."""
    address, folder = server
    (folder / "x.jsonl").write_bytes(b'{"a": 1}\n')
    assert rows_of(f"{address}/x.jsonl") == [{"a": 1}]

    def no_network(*args, **more):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    assert rows_of(f"{address}/x.jsonl") == [{"a": 1}]
    assert f"{address}/x.jsonl cannot be reached: the copy of an earlier run is used (no network)" in said()


def test_a_file_by_a_protocol_of_fsspec(said):
    """Downloaded again if it has changed."""
    import fsspec

    system = fsspec.filesystem("memory")
    for content in (b'{"a": 1}\n', b'{"a": 12}\n'):
        system.pipe("/bucket/x.jsonl", content)
        assert rows_of("memory://bucket/x.jsonl") == [json.loads(content)]
    with pytest.raises(NotFoundError, match=r"memory://bucket/y\.jsonl cannot be downloaded: "):
        load_dataset("memory://bucket/y.jsonl")
    with pytest.raises(DataError, match=r"foo://x\.jsonl: the protocol 'foo' is not known"):
        load_dataset("foo://x.jsonl")


def test_a_table_of_long_cells_takes_little_more_memory_than_its_text(tmp_path):
    """Tables of images in base64 have hundreds of megabytes; text, cells and half as much again are held."""
    import tracemalloc

    path = tmp_path / "images.tsv"
    path.write_text("index\timage\n" + "".join(f"{n}\t{'A' * 50_000}\n" for n in range(60)))
    rows = load_dataset(str(path), split="train")
    tracemalloc.start()
    assert len(rows) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * path.stat().st_size


def test_lines_of_tables_end_as_those_of_any_system(tmp_path):
    """With CR LF, LF or CR alone, also within a cell in quotes; other separators of lines are letters."""
    path = tmp_path / "a.csv"
    path.write_bytes('a,b\r\n1,"x\r\ny"\n2,"p\nq"\r3,z\u2028w'.encode())
    rows = load_dataset(str(path), split="train")
    assert list(rows) == [{"a": "1", "b": "x\r\ny"}, {"a": "2", "b": "p\nq"}, {"a": "3", "b": "z\u2028w"}]
