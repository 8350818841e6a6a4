"""Real chat templates: nothing but an answer's words and its end mark is trained, and no answer is left out.

The oracle looks at the text alone, with regular expressions, and knows nothing of how spans are found: every
word of a dialogue tells whose it is (see `dialogues`), and `index.json` has, written by hand, what opens an
answer of each template (`header`, and `opens` where the prompt goes on) and what ends it (`end`).
`exceptions.json` names what a template itself leaves out or refuses.

    1  no word of a question, a system text, a tool or its result is trained
    2  every word of an answer that the template wrote is trained
    3  no word of an answer with `loss` false is trained
    4  a span ends with the mark that ends the answer, and holds no other one
    5  a span begins where the prompt ends
    6  no word is lost that the template writes in another form of the same messages
    7  a span holds words of an answer
    0  a dialogue that the template takes is not refused
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from tests.dataset.encoding.dialogues import NAMES, WORD, Block, Dialogue, blocks, dialogue, forms, is_of_call
from xtuner.dataset.encoding.chat_template import ChatTemplate, Rendered
from xtuner.errors import DataError

DATA = Path(__file__).parents[2] / "data"
FOLDER = DATA / "chat_templates"
INDEX = json.loads((FOLDER / "index.json").read_text("utf-8"))
EXCEPTIONS = json.loads((FOLDER / "exceptions.json").read_text("utf-8"))  # template -> what -> why
TAKEN = ("system", "tools", "call", "second call", "result", "thinking")


@dataclass
class Found:
    """What is wrong, each with the number of its rule, what the template itself does, and what came out."""

    rendered: Rendered | None = None

    faults: list[str] = field(default_factory=list)
    exceptions: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)


def _source(name: str) -> str:
    with open(FOLDER / f"{name}.jinja", encoding="utf-8", newline="") as file:
        return file.read()


for _name, _row in INDEX.items():
    _row["marks_itself"] = bool(re.search(r"\{%-?\s*generation", _source(_name)))


@functools.lru_cache(maxsize=2)
def own_tokenizer(name: str):
    """A tokenizer with that template and the tokens that its model's tokenizer has."""
    row = INDEX[name]
    tokenizer = copy.deepcopy(_plain_tokenizer())
    tokenizer.bos_token, tokenizer.eos_token = row["bos"], row["eos"]
    tokenizer.add_special_tokens({"extra_special_tokens": row["special"]})
    tokenizer.add_tokens(row["plain"])
    tokenizer.chat_template = _source(name)
    if "default" in row:
        tokenizer.chat_template = {"default": _source(row["default"]), "tool_use": _source(name)}
    return tokenizer


@functools.cache
def _plain_tokenizer():
    return AutoTokenizer.from_pretrained(DATA / "tokenizer_bos")


def _dialogue(row, shape: str) -> Dialogue:
    return dialogue(shape, row["tool_role"], row.get("call_id", "{number}"), row["special"])


def _rendered(template: ChatTemplate, row, shape: str) -> Rendered | None:
    """What the template makes of that dialogue; None where it refuses."""
    asked = _dialogue(row, shape)
    try:
        return template.render(asked.messages, asked.tools)
    except DataError:
        return None


@functools.cache
def examine(name: str, shape: str) -> Found:
    row, tokenizer = INDEX[name], own_tokenizer(name)
    asked = _dialogue(row, shape)
    if not asked.tools and "default" in row:
        row = {**row, "opens": INDEX[row["default"]]["opens"]}
    found = Found()
    try:
        rendered = ChatTemplate(tokenizer).render(asked.messages, asked.tools)
    except DataError as error:
        text = _check_lost(found, tokenizer, asked, "")
        if text:
            found.faults.append(f"0 {error}")
            _check_answers(found, row, asked, text)
        else:
            found.exceptions = {f"refuses {shape}"}
        return found
    found.rendered = rendered
    _check_answers(found, row, asked, _check_lost(found, tokenizer, asked, rendered.text))
    _check_words(found, asked, rendered.text, rendered.spans)
    _check_spans(found, row, asked, rendered.text, rendered.spans)
    return found


def _check_lost(found: Found, tokenizer, asked: Dialogue, text: str) -> str:
    """The text that shows most, of all forms of the messages; rule 6 where that is not `text`."""
    shown = {text: {match.group() for match in WORD.finditer(text)}}
    lost = asked.words() - shown[text]
    if lost:
        for other in _texts(tokenizer, asked, calls=any(is_of_call(word) for word in lost)):
            shown[other] = {match.group() for match in WORD.finditer(other)}
    seen = set().union(*shown.values())
    found.shown = {asked.what(word) for word in seen}
    found.exceptions |= {f"hides {asked.what(word)}" for word in asked.words() - seen}
    if text:
        found.faults += [f"6 {word} is lost" for word in sorted(seen - shown[text])]
    return max(shown, key=lambda other: len(shown[other]))


def _texts(tokenizer, asked: Dialogue, calls: bool) -> Iterator[str]:
    """What the template writes, for each form of the messages, and of their calls, that it takes."""
    source = tokenizer.get_chat_template(None, asked.tools)
    for in_parts in (False, True):
        shown = False
        for messages in forms(asked.messages, in_parts, calls):
            try:
                # Not by the tokenizer, which leaves out a content of None that DeepSeek's look for.
                (text,), _ = render_jinja_template(
                    [messages], tools=asked.tools, chat_template=source, **tokenizer.special_tokens_map
                )
            except Exception:  # templates raise errors of their own
                continue
            if WORD.search(text):
                shown = True
                yield text
        if shown:
            return


def _check_answers(found: Found, row, asked: Dialogue, text: str) -> None:
    """What the template does not write around its answers, or writes inside them."""
    mark = _end_mark(row)
    for block in _answers(asked, text):
        if not _first_end(row, mark, text, block):
            found.exceptions.add(
                f"no end mark after {'the last' if block.after == len(text) else 'an'} answer"
            )
        if _after_header(row, mark, text, block) is None:
            found.exceptions.add("no header before an answer")
        if mark.search(text, block.start, block.end):
            found.exceptions.add("end mark inside an answer")
        if any(header in text[block.start : block.end] for header in row["header"]):
            found.exceptions.add("header inside an answer")


def _check_words(found: Found, asked: Dialogue, text: str, spans: list[tuple[int, int]]) -> None:
    """Rules 1 to 3."""
    trained, shown = set(), set()
    for match in WORD.finditer(text):
        word = match.group()
        inside = any(start <= match.start() and match.end() <= end for start, end in spans)
        overlaps = any(start < match.end() and match.start() < end for start, end in spans)
        if asked.is_trained(word):
            shown.add(word)
            trained |= {word} if inside else set()
            # The name of a tool also stands before what it returned.
            if not inside and match.group(3) != "call":
                found.faults.append(f"2 {word} is not trained")
        elif overlaps:
            found.faults.append(f"{3 if word[0] == 'a' else 1} {word} is trained")
    names = [word for word in sorted(shown - trained) if "call" in word]
    found.faults += [f"2 {word} is not trained" for word in names]


def _check_spans(found: Found, row, asked: Dialogue, text: str, spans: list[tuple[int, int]]) -> None:
    """Rules 4, 5 and 7."""
    mark, answers = _end_mark(row), _answers(asked, text)
    for start, end in spans:
        held = [block for block in answers if start <= block.start and block.end <= end]
        wrong = [] if held else [f"7 a span without words: {text[start:end]!r}"]
        if held:
            wrong += _wrong_end(row, mark, text, held[-1], end)
            wrong += _wrong_start(row, mark, text, held[0], start)
        wrong += [
            f"4 two answers in a span: {text[start:end]!r}"
            for one, other in itertools.pairwise(held)
            if mark.search(text, one.end, other.start)
        ]
        if wrong and row["marks_itself"]:
            found.exceptions.add("other boundaries by its own {% generation %}")
        else:
            found.faults += wrong


def _answers(asked: Dialogue, text: str) -> list[Block]:
    return [block for block in blocks(text) if asked.is_trained(block.words[0])]


def _end_mark(row) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(row["end"], key=len, reverse=True))) or r"(?!)")


def _first_end(row, mark: re.Pattern, text: str, block: Block) -> re.Match | None:
    """The end mark of an answer; None where a mark that begins headers comes before one."""
    first = mark.search(text, block.end, block.after)
    between = text[block.end : first.start()] if first else ""
    opening = [token for token in row["special"] if any(header.startswith(token) for header in row["header"])]
    return None if any(token in between for token in opening) else first


def _wrong_end(row, mark: re.Pattern, text: str, block: Block, end: int) -> Iterator[str]:
    first = _first_end(row, mark, text, block)
    if first and end != first.end():
        yield f"4 ends after {text[block.end : end]!r}, not {text[block.end : first.end()]!r}"
    more = text[block.end : end]
    if not first and (
        any(header in more for header in row["header"]) or ("word" in block.words[-1] and more.strip())
    ):
        yield f"4 ends after {more!r}, where the template writes no end mark"


def _wrong_start(row, mark: re.Pattern, text: str, block: Block, start: int) -> Iterator[str]:
    after = _after_header(row, mark, text, block)
    if after is None:
        if start < _last_end(mark, text, block):
            yield f"5 starts at {text[start : start + 30]!r}, before the last answer ends"
        return
    whole = [after + len(more) for more in row["opens"] if text.startswith(more, after)]
    partly = [after, *(after + _common(more, text[after:]) for more in row["opens"])]
    if start not in (whole[:1] or partly):
        yield f"5 starts at {text[start : start + 30]!r}, not at {text[after : after + 30]!r}"


def _after_header(row, mark: re.Pattern, text: str, block: Block) -> int | None:
    """Where the header of an answer ends; None where the template wrote none since the last answer ended."""
    ends = [
        at + len(header)
        for header in row["header"]
        for at in [text.rfind(header, block.before, block.start)]
        if at >= 0
    ]
    after = max(ends, default=-1)
    return None if after < max(0, _last_end(mark, text, block)) else after


def _last_end(mark: re.Pattern, text: str, block: Block) -> int:
    return max((match.end() for match in mark.finditer(text, block.before, block.start)), default=0)


def _common(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_each_template_is_in_the_index():
    """And nothing else is."""
    assert sorted(INDEX) == sorted(path.stem for path in FOLDER.glob("*.jinja"))


@pytest.mark.parametrize("name", list(INDEX))
def test_answers_and_nothing_else_are_trained(name):
    """In every shape of dialogue, and whatever dialogues the template has written before."""
    found = {shape: faults for shape in NAMES if (faults := examine(name, shape).faults)}
    assert not found
    row, template = INDEX[name], ChatTemplate(own_tokenizer(name))
    for shape in reversed(NAMES):
        assert _rendered(template, row, shape) == examine(name, shape).rendered


@pytest.mark.parametrize("name", list(INDEX))
def test_what_a_template_leaves_out_is_listed(name):
    """All that a template hides or refuses is in exceptions.json, and nothing else is."""
    seen = set().union(*(examine(name, shape).exceptions for shape in NAMES))
    assert seen == {what for listed in EXCEPTIONS.get(name, {}) for what in _each(listed)}
    # Thinking with tags around it is a part of any content.
    shown = set().union(*(examine(name, shape).shown for shape in NAMES if shape != "think_tags"))
    assert INDEX[name]["takes"] == [what for what in TAKEN if what in shown]


def _each(listed: str) -> Iterator[str]:
    """`hides call, result` -> `hides call`, `hides result`."""
    first, *others = listed.split(", ")
    yield first
    yield from (f"{first.split()[0]} {other}" for other in others)
