"""The text that the demo's base model learns from, written for it and shipped with the package.

Each `.txt` file beside this module holds documents separated by empty lines: a statement on one
line, or a dialogue whose questions may be put in several ways.

    春天温暖多风。                          Document(text="春天温暖多风。")

    Q: 你是谁？ | 请问你是谁？              Document(turns=((("你是谁？", "请问你是谁？"),
    A: 我是一个小语言模型，还没有名字。                      "我是一个小语言模型，还没有名字。"),))

A file may begin with a table. Its documents are then patterns, filled in once for every row:

    columns: country | capital
    France | Paris                          The capital of France is Paris.
    Japan | Tokyo                           The capital of Japan is Tokyo.

    The capital of {country} is {capital}.

`times: 2` at the top of a file counts its documents twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Document(NamedTuple):
    """A statement (`text`) or a dialogue (`turns` of (ways to ask, answer)); never both."""

    text: str = ""
    turns: tuple[tuple[tuple[str, ...], str], ...] = ()


@cache
def load_documents() -> tuple[Document, ...]:
    """All documents, the files in the order of their names."""
    return tuple(d for path in sorted(FOLDER.glob("*.txt")) for d in read_documents(path.read_text("utf-8")))


def read_documents(source: str) -> Iterator[Document]:
    """The documents of one file, its table filled in, repeated as often as it says."""
    text = "\n".join(line for line in source.splitlines() if not line.startswith("#")).strip()
    times = 1
    if text.startswith("times:"):
        first, text = text.split("\n", 1)
        times = int(first.removeprefix("times:"))
    blocks = [block.splitlines() for block in re.split(r"\n{2,}", text.strip())]
    for _ in range(times):
        yield from map(read_block, fill_table(blocks) if blocks[0][0].startswith("columns:") else blocks)


def fill_table(blocks: list[list[str]]) -> Iterator[list[str]]:
    """The patterns after the table in `blocks[0]`, once for each of its rows."""
    (head, *rows), *patterns = blocks
    names = split_cells(head.removeprefix("columns:"))
    for row in rows:
        cells = dict(zip(names, split_cells(row), strict=True))
        for pattern in patterns:
            yield [fill(line, cells) for line in pattern]


def read_block(lines: list[str]) -> Document:
    """The document written in the lines between two empty ones."""
    if not lines[0].startswith("Q: "):
        (text,) = lines
        return Document(text=text)
    turns = []
    for question, answer in zip(lines[::2], lines[1::2], strict=True):
        assert question.startswith("Q: "), question
        assert answer.startswith("A: "), answer
        turns.append((tuple(split_cells(question[3:])), answer[3:]))
    return Document(turns=tuple(turns))


def split_cells(line: str) -> list[str]:
    """`a | b` as `["a", "b"]`."""
    return [cell.strip() for cell in line.split(" | ")]


def fill(pattern: str, cells: dict[str, str]) -> str:
    """`pattern` with its `{names}` replaced, capitalised at the start of a sentence."""

    def put(match: re.Match[str]) -> str:
        cell = cells[match[1]]
        opens = re.search(r"(^|^[QA]: | \| |[.?] )$", pattern[: match.start()])
        return cell[:1].upper() + cell[1:] if opens else cell

    return re.sub(r"\{(\w+)\}", put, pattern)


def all_strings(documents: Iterable[Document]) -> Iterator[str]:
    """All texts of all documents, on which the tokenizer is trained."""
    for document in documents:
        if document.text:
            yield document.text
        for questions, answer in document.turns:
            yield from questions
            yield answer
