"""Faulty rows are left out and listed, or an error; never dropped in silence."""

import json
import threading

import pytest

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.encoding.conversations import encode_texts
from xtuner.dataset.encoding.pipeline import FAULTY
from xtuner.dataset.encoding.progress import describe_rates
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import DataError

GOOD = {"conversation": [{"input": "q", "output": "a"}]}
FAULTS = {
    "broken JSON": ("{broken", "column 2: broken JSON: Expecting property name"),
    "no object": ("3", "a row must be an object such as {...}; this is 3"),
    "not UTF-8": (b'{"conversation": "\xff"}', "byte 19: not valid UTF-8"),
    "a wrong type": ({"conversation": [{"input": "q", "output": ["x"]}]}, "'output' is of type list"),
    "a null": ({"conversation": None, "text": "x"}, None),
    "another schema": ({"text": "x"}, "the row has no field 'conversation'; its fields are 'text'"),
    "half of a character": (
        '{"conversation": [{"input": "q", "output": "\\ud800"}]}',
        "output has half of a character at position 0",
    ),
}


def file_of(folder, *rows):
    """A file of 40 good rows with `rows` from line 21 on."""
    lines = [GOOD] * 20 + list(rows) + [GOOD] * 20
    as_bytes = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    (folder / "d.jsonl").write_bytes(b"\n".join(as_bytes))
    return folder / "d.jsonl"


@pytest.fixture
def make(bos, tmp_path):
    """The data set of a file with these rows among good ones."""
    arguments = {"tokenizer": bos, "max_length": 32, "template_map_fn": template_map_fn_factory("default")}
    return lambda *rows, **more: process_hf_dataset(
        load_dataset(file_of(tmp_path, *rows)), **arguments | more
    )


@pytest.fixture
def said(caplog):
    caplog.set_level("WARNING", logger="xtuner")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_with_a_fault_is_left_out_counted_and_listed(make, said, tmp_path, fault):
    """Place and reason are in the log and in a file beside the tokens; the rows around it are kept."""
    row, message = FAULTS[fault]
    dataset = make(row)
    assert (dataset.stats["rows"], dataset.stats["samples"]) == (41, 40)
    if message is None:
        assert dataset.stats["dropped"] == {"no conversation in them": 1}
        return
    place = f"{tmp_path / 'd.jsonl'} line 21"
    assert dataset.stats["dropped_rows"] == {FAULTY: [place]}
    (listed,) = (dataset.store.folder / "faults.txt").read_text("utf-8").splitlines()
    assert listed.startswith(place)
    assert message in listed
    (line,) = said()
    assert line.startswith(f"data: 1 row left out as unreadable: {listed}")


@pytest.mark.parametrize("fault", ["broken JSON", "a wrong type", "half of a character"])
def test_strict_makes_it_an_error(make, fault):
    """Also if the tokens were prepared before without it."""
    row, message = FAULTS[fault]
    for _ in range(2):
        with pytest.raises(DataError, match="line 21") as caught:
            make(row, strict=True)
        assert message in str(caught.value)
        make(row)


def test_many_rows_with_a_fault_are_an_error(make):
    """Then a setting is wrong, not a row; the first is named, with how many there are."""
    with pytest.raises(DataError, match=r"line 21: .*no field 'conversation'.*\(3 of 43 rows have a fault\)"):
        make({"text": "x"}, {"text": "y"}, {"text": "z"})


def test_line_breaks_of_windows_a_byte_order_mark_and_a_huge_line_do_no_harm(bos, tmp_path):
    """As Windows writes files; 10 MB in one line is a row like any other."""
    huge = {"conversation": [{"input": "q", "output": "ab " * 50}], "page": "ab " * 3_500_000}
    lines = [json.dumps(row).encode() for row in (GOOD, huge, GOOD)]
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n\r\n")
    dataset = process_hf_dataset(load_dataset(tmp_path / "d.jsonl"), tokenizer=bos, max_length=32)
    assert (dataset.stats["rows"], dataset.stats["samples"], dataset.stats["cut"]) == (3, 3, 1)


@pytest.mark.parametrize(
    ("conversation", "count"),
    [
        ([{"input": "q", "output": ""}], 1),
        ([{"input": "q", "output": " \n"}], 1),
        ([{"input": "q", "output": None}], 1),
        ([{"input": "q", "output": "a"}, {"input": "q", "output": ""}], 1),
        ([{"input": "q", "output": "", "output_with_loss": False}, {"input": "q", "output": "a"}], 0),
        ([{"input": "q", "output": "a"}], 0),
    ],
)
@pytest.mark.parametrize("template", ["default", "qwen_chat"])
def test_empty_answers_are_counted_and_logged(make, said, tmp_path, conversation, count, template):
    """Only the end mark of such an answer is supervised, which teaches the model to say nothing."""
    template_map_fn = template_map_fn_factory(template)
    dataset = make({"conversation": conversation}, template_map_fn=template_map_fn)
    place = f"{tmp_path / 'd.jsonl'} line 21"
    assert dataset.stats["empty_answers"] == count
    assert dataset.stats["empty_answer_rows"] == [place] * count
    warning = (
        "data: 1 row has an empty answer, of which only the end is supervised: the model learns to say "
        f"nothing ({place})"
    )
    assert said() == [warning] * count


def test_the_bar_tells_rows_tokens_and_the_time_left():
    assert describe_rates(500, 60_000, 2000, 10.0) == "500/2,000 rows  50 rows/s  6 k tokens/s  0:00:30 left"
    assert describe_rates(5000, 9_900_000, None, 2.0) == "5,000 rows  2,500 rows/s  5.0 M tokens/s"


def test_a_list_and_a_table_go_on_behind_a_wrong_row(bos, tmp_path):
    """Where the form of the file still tells rows apart; a list that is broken itself cannot be read on."""
    good = json.dumps(GOOD)
    (tmp_path / "d.json").write_text("[" + f"{good},\n" * 25 + "3,\n" + f"{good}]")
    (tmp_path / "d.csv").write_text("text\n" + "a\n" * 25 + "a,b\n" + "a\n")
    (tmp_path / "e.json").write_text("[" + f"{good},\n" * 25 + '{"a" "b"},\n' + f"{good}]")
    arguments = {"tokenizer": bos, "max_length": 32}
    listed = process_hf_dataset(load_dataset(tmp_path / "d.json"), **arguments)
    table = process_hf_dataset(load_dataset(tmp_path / "d.csv"), dataset_map_fn="pretrain", **arguments)
    assert listed.stats["faults"] == [
        f"{tmp_path / 'd.json'} line 26: a row must be an object such as {{...}}; this is 3"
    ]
    assert table.stats["faults"] == [f"{tmp_path / 'd.csv'} line 27: 2 cells, but 1 name in line 1"]
    assert listed.stats["samples"] == table.stats["samples"] == 26
    with pytest.raises(DataError, match=r"line 26 column \d+: broken JSON"):
        process_hf_dataset(load_dataset(tmp_path / "e.json"), **arguments)


def test_a_missing_value_of_a_table_is_no_text(bos):
    """pandas writes NaN for it, which Python reads as a number; `nan` is not learnt."""
    rows = [{"instruction": "q", "input": float("nan"), "output": "a"}] * 30
    rows[3] = {"instruction": "q", "input": "", "output": float("nan")}
    dataset = process_hf_dataset(rows, tokenizer=bos, max_length=32, dataset_map_fn="alpaca")
    (fault,) = dataset.stats["faults"]
    assert "the field 'output' is null" in fault
    text = bos.decode(dataset[0]["input_ids"])
    assert "nan" not in text


def test_utf_16_is_recognised(bos, tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(DataError, match="from UTF-16: iconv -f utf-16"):
        process_hf_dataset(load_dataset(tmp_path / "d.jsonl"), tokenizer=bos, max_length=32)


def test_rows_are_read_while_others_are_tokenised(make, monkeypatch):
    """Later rows are mapped while the tokenizer is at work on the first; what comes out is the same."""
    plain = [item["input_ids"].tolist() for item in make()]
    later, waited = threading.Event(), []

    def encode(tokenizer, texts):
        waited.append(later.wait(timeout=20))
        return encode_texts(tokenizer, texts)

    def see(row):
        seen.append(row)
        if len(seen) == 2:
            later.set()
        return row

    seen = []
    monkeypatch.setattr("xtuner.dataset.encoding.conversations.encode_texts", encode)
    monkeypatch.setattr("xtuner.dataset.encoding.pipeline.FIRST_CHUNK_ROWS", 1)
    overlapped = make(dataset_map_fn=see)
    assert waited[0]
    assert [item["input_ids"].tolist() for item in overlapped] == plain
