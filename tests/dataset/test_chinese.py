"""Faults of data in Chinese: whatever is wrong with a row, a file or a setting."""

import json
import re

import pytest

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import XTunerError

GOOD = {"conversation": [{"input": "a", "output": "b"}]}


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


FAULTS = {
    "a line that is cut off": ("d.jsonl", '{"a": 1', {}, "第 1 行第 8 列：JSON 有误"),
    "a row that is no object": ("d.jsonl", lines(3), {}, r"第 1 行：一行应为 {...} 这样的对象，而这里是 3"),
    "a list that is cut off": (
        "d.json",
        '[{"a": 1}',
        {},
        "JSON 有误：一条数据之后应为逗号或 ]，这里却是 文件结尾",
    ),
    "words after a list": ("d.json", '[{"a": 1}] x', {}, "数据列表之后不应有内容，这里却是 'x'"),
    "another encoding": ("d.jsonl", '{"a": "中"}'.encode("gbk"), {}, "第 1 行，字节 8：不是有效的 UTF-8"),
    "an empty file": ("d.jsonl", "", {}, "数据为空"),
    "a cell too many": (
        "d.csv",
        "text\na,b\n",
        {"dataset_map_fn": "pretrain"},
        "第 2 行：有 2 个单元格，而第 1 行",
    ),
    "a damaged table": ("d.parquet", "PAR", {}, "不是 Parquet 文件，或已损坏"),
    "a damaged workbook": ("d.xlsx", "PK", {}, "不是工作簿，或已损坏"),
    "a kind of file": ("d.doc", "x", {}, "数据文件可以是 "),
    "a pointer": ("d.json", "version https://git-lfs.github.com/spec/v1\n", {}, "是 git-lfs 的指针"),
    "no conversation": (
        "d.jsonl",
        lines({"x": 1}),
        {},
        r"没有字段 'conversation'；它的字段有 'x'。.* 请给出 dataset_map_fn",
    ),
    "another format": (
        "d.jsonl",
        lines({"input": "a", "output": "b"}),
        {},
        "它的字段适用 dataset_map_fn = .*default_map_fn",
    ),
    "a field that is missing": (
        "d.jsonl",
        lines({"instruction": "a"}),
        {"dataset_map_fn": "alpaca"},
        "alpaca_map_fn: 数据行没有字段 'output'；它的字段有 'instruction'。",
    ),
    "a field that is null": (
        "d.jsonl",
        lines({"instruction": None, "input": "", "output": "b"}),
        {"dataset_map_fn": "alpaca"},
        "字段 'instruction' 为 null，应为文本",
    ),
    "a list for a text": (
        "d.jsonl",
        lines({"text": ["a"]}),
        {"dataset_map_fn": "pretrain"},
        "字段 'text' 的类型为 list，应为文本",
    ),
    "half of a character": (
        "d.jsonl",
        lines({"conversation": [{"input": "a", "output": "\ud83d"}]}),
        {},
        "第 1 行: output 在位置 0 有半个字符",
    ),
    "an unknown role": (
        "d.jsonl",
        lines({"messages": [{"role": "usr", "content": "a"}]}),
        {"dataset_map_fn": "openai"},
        "消息的角色为 'usr'；已知角色有 ",
    ),
    "an unknown speaker": (
        "d.jsonl",
        lines({"conversations": [{"from": "humn", "value": "a"}]}),
        {"dataset_map_fn": "sharegpt"},
        "消息来自 'humn'；已知的有 .* 你是不是想写 'human'",
    ),
    "a format that is not known": (
        "d.jsonl",
        lines({"prompt": "a"}),
        {"dataset_map_fn": "auto"},
        "不认识含字段 'prompt' 的格式。最接近的：completion（缺少 'completion'）",
    ),
    "a weight that is none": (
        "d.jsonl",
        lines({"conversation": [{"input": "a", "output": "b", "loss": "maybe"}]}),
        {},
        "字段 'loss' 为 'maybe'：请写 true 或 false",
    ),
    "no answer": (
        "d.jsonl",
        lines({"conversation": []}),
        {},
        r"1 条中没有一条可训练： 1 条没有对话内容（.*d.jsonl 第 1 行）",
    ),
    "a prompt without room for an answer": (
        "d.jsonl",
        lines({"conversation": [{"input": "a" * 99, "output": "b"}]}),
        {},
        "仅提示部分就占满 max_length.*。max_length 为 16：请增大它",
    ),
    "a name of no function": (
        "d.jsonl",
        lines(GOOD),
        {"dataset_map_fn": "alpacca"},
        "找不到 dataset_map_fn = 'alpacca'.* 你是不是想写 ",
    ),
    "a buffer without rows": ("d.jsonl", lines(GOOD), {"streaming": True, "buffer_size": 0}, "应不小于 1 行"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_data(fault, tmp_path, tokenizer, untold):
    """One line that names position, fault and cure, with no sentence in English."""
    name, content, settings, message = FAULTS[fault]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(XTunerError, match=message) as error:
        process_hf_dataset(load_dataset(path), tokenizer=tokenizer, max_length=16, strict=True, **settings)
    assert "\n" not in str(error.value)
    assert untold == set()


def test_what_is_logged_once(tmp_path, tokenizer, untold, caplog):
    """The format that was found, and what becomes of rows that are no fault."""
    caplog.set_level("INFO", "xtuner")
    rows = [{"Question": "a", "Answer": "b", "loss": 0.5}, {"问题": "a", "回答": "b"}]
    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(lines(row), encoding="utf-8")
        process_hf_dataset(load_dataset(path), tokenizer=tokenizer, max_length=16, dataset_map_fn="auto")
    assert "fields are renamed" not in caplog.text
    assert "dataset_map_fn = 'auto'：重命名字段：'问题' -> 'question', '回答' -> 'answer'" in caplog.text
    assert re.search("'auto'：数据为 question and answer 格式，因为它有 'question', 'answer'", caplog.text)
    assert untold == set()
