"""Dialogues in which every word tells whose it is, and what a chat template made of them.

    s0worda    system text, message 0          t3worda    result of a tool, message 3
    u1worda    question, message 1             a4thinka   thinking of the answer that is message 4
    a2worda    answer, message 2               a4calla    name of the first tool that it calls
    x0worda    description of tool 0           a4keya, a4valuea, a4itema    arguments of that call

A text has a first word that ends in `a` and a last one that ends in `z`. So regular expressions over the text
alone tell what a template wrote, what it left out and what is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WORD = re.compile(r"([suatx])(\d+)(word|think|call|key|value|item)[az]")
_KINDS = {"s": "system", "u": "question", "t": "result", "x": "tools"}

Message = dict[str, Any]


@dataclass(frozen=True)
class Dialogue:
    messages: list[Message]
    tools: list[Message] | None = None

    def words(self) -> set[str]:
        """All words of the messages and of the tools."""
        return {match.group() for match in WORD.finditer(json.dumps([self.messages, self.tools]))}

    def is_trained(self, word: str) -> bool:
        return word[0] == "a" and self.messages[_number(word)].get("loss") is not False

    def what(self, word: str) -> str:
        """What is lost with this word."""
        owner, number, kind = WORD.fullmatch(word).groups()
        if owner != "a":
            return _KINDS[owner]
        if kind == "word":
            return "text beside a call" if self.messages[int(number)].get("tool_calls") else "answer"
        if kind == "think":
            last = max(n for n, message in enumerate(self.messages) if message["role"] == "user")
            return "thinking" if int(number) > last else "earlier thinking"
        return "call" if word.endswith("a") else "second call"


@dataclass(frozen=True)
class Block:
    """Words of one message that stand in a text with no other message's word between them."""

    words: list[str]
    start: int
    end: int
    before: int  # where the word before ends
    after: int  # where the word after begins

    @property
    def message(self) -> str:
        return self.words[0][0] + str(_number(self.words[0]))


def blocks(text: str) -> list[Block]:
    """All blocks of a text, in order; the name of a tool counts only where it is called."""
    found: list[Block] = []
    called: set[str] = set()
    for match in WORD.finditer(text):
        word, (start, end) = match.group(), match.span()
        if match.group(3) == "call":
            if word in called:
                continue
            called.add(word)
        if found and found[-1].message == word[0] + match.group(2):
            last = found.pop()
            found.append(Block([*last.words, word], last.start, end, last.before, len(text)))
        else:
            before = 0
            if found:
                last = found.pop()
                before = last.end
                found.append(Block(last.words, last.start, last.end, last.before, start))
            found.append(Block([word], start, end, before, len(text)))
    return found


def is_of_call(word: str) -> bool:
    return WORD.fullmatch(word).group(3) in ("call", "key", "value", "item")


def _number(word: str) -> int:
    return int(WORD.match(word).group(2))


# --- the shapes --------------------------------------------------------------------------------------------


def _text(who: str, kind: str = "word", middle: str = " ") -> str:
    return f"{who}{kind}a{middle}{who}{kind}z"


def _system(n: int) -> Message:
    return {"role": "system", "content": _text(f"s{n}")}


def _user(n: int) -> Message:
    return {"role": "user", "content": _text(f"u{n}")}


def _answer(n: int, **more: Any) -> Message:
    return {"role": "assistant", "content": _text(f"a{n}"), **more}


def _thinks(n: int) -> dict[str, str]:
    return {"reasoning_content": _text(f"a{n}", "think")}


def _call(n: int, which: str = "a") -> Message:
    who = f"a{n}"
    arguments = {f"{who}key{which}": f"{who}value{which}", "list": [f"{who}item{which}", 7], "flag": True}
    # Mistral takes ids of nine letters only.
    return {
        "type": "function",
        "id": f"number{n:02d}{which}",
        "function": {"name": f"{who}call{which}", "arguments": arguments},
    }


def _calls(n: int, calls: str = "a", content: str = "", **more: Any) -> Message:
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [_call(n, which) for which in calls],
        **more,
    }


def _result(n: int, of: int, which: str = "a") -> Message:
    call = _call(of, which)
    return {
        "role": "tool",
        "tool_call_id": call["id"],
        "name": call["function"]["name"],
        "content": _text(f"t{n}"),
    }


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"tool{n}",
            "description": _text(f"x{n}"),
            "parameters": {
                "type": "object",
                "properties": {f"x{n}keya": {"type": "string", "description": f"x{n}valuea"}},
                "required": [f"x{n}keya"],
            },
        },
    }
    for n in range(2)
]


def _odd(n: int, who: str, marks: str = "") -> str:
    return f"  {_text(who + str(n), middle=f' é中文🙂 x < y & {{{{ z }}}}{marks} ' + chr(10) * 2)}\n "


def _odd_text(marks: str) -> Dialogue:
    """Characters of all kinds, and the template's own marks in what the user writes."""
    return Dialogue(
        [
            {"role": "user", "content": _odd(0, "u", marks)},
            {"role": "assistant", "content": _odd(1, "a")},
            {"role": "user", "content": _odd(2, "u", marks)},
            {"role": "assistant", "content": _odd(3, "a")},
        ]
    )


def _tagged(n: int) -> Message:
    thinking = _text(f"a{n}", "think", "\n")
    return {"role": "assistant", "content": f"<think>\n{thinking}\n</think>\n\n{_text(f'a{n}')}"}


def _turns(*losses: bool) -> list[Message]:
    messages = []
    for loss in losses:
        n = len(messages)
        messages += [_user(n), _answer(n + 1, **({} if loss else {"loss": False}))]
    return messages


SHAPES: dict[str, Callable[[], Dialogue]] = {
    "one_turn": lambda: Dialogue(_turns(True)),
    "three_turns": lambda: Dialogue(_turns(True, True, True)),
    "system": lambda: Dialogue([_system(0), _user(1), _answer(2), _user(3), _answer(4)]),
    "thinking": lambda: Dialogue([_user(0), _answer(1, **_thinks(1)), _user(2), _answer(3, **_thinks(3))]),
    "think_tags": lambda: Dialogue([_user(0), _tagged(1), _user(2), _tagged(3)]),
    "call": lambda: Dialogue([_user(0), _calls(1), _result(2, 1), _answer(3)], TOOLS),
    "call_last": lambda: Dialogue([_user(0), _answer(1), _user(2), _calls(3)], TOOLS),
    "two_calls": lambda: Dialogue(
        [_user(0), _calls(1, "az"), _result(2, 1), _result(3, 1, "z"), _answer(4)], TOOLS
    ),
    "text_and_call": lambda: Dialogue(
        [_user(0), _calls(1, content=_text("a1")), _result(2, 1), _answer(3)], TOOLS
    ),
    "thinking_and_call": lambda: Dialogue(
        [
            _user(0),
            _calls(1, **_thinks(1)),
            _result(2, 1),
            _answer(3, **_thinks(3)),
            _user(4),
            _answer(5, **_thinks(5)),
        ],
        TOOLS,
    ),
    "system_and_calls": lambda: Dialogue(
        [
            _system(0),
            _user(1),
            _calls(2),
            _result(3, 2),
            _answer(4),
            _user(5),
            _answer(6),
            _user(7),
            _calls(8),
            _result(9, 8),
            _answer(10),
        ],
        TOOLS,
    ),
    "untrained_middle": lambda: Dialogue(_turns(True, False, True)),
    "untrained_ends": lambda: Dialogue(_turns(False, True, False)),
    "untrained_call": lambda: Dialogue(
        [_user(0), _calls(1, loss=False), _result(2, 1), _answer(3), _user(4), _answer(5)], TOOLS
    ),
    "answer_first": lambda: Dialogue([_system(0), _answer(1), _user(2), _answer(3)]),
    "in_a_row": lambda: Dialogue([_user(0), _user(1), _answer(2), _answer(3), _user(4), _answer(5)]),
}
NAMES = ("odd_text", *SHAPES)


def dialogue(shape: str, tool_role: str, call_id: str, marks: Sequence[str]) -> Dialogue:
    """The dialogue of that shape; results of tools have that role, and calls ids of that form."""
    made = _odd_text(" ".join(marks)) if shape == "odd_text" else SHAPES[shape]()
    for message in made.messages:
        for call in message.get("tool_calls", []):
            call["id"] = call_id.format(name=call["function"]["name"], number=call["id"])
        if message["role"] == "tool":
            message["role"] = tool_role
            message["tool_call_id"] = call_id.format(name=message["name"], number=message["tool_call_id"])
    return made


# --- what a template can be given ---------------------------------------------------------------------------


def forms(messages: Sequence[Message], in_parts: bool, calls: bool) -> Iterator[list[Message]]:
    """The messages, and where asked for the calls, in each form that templates know."""
    for as_text, empty in [(False, ""), (True, ""), (False, None), (True, None)] if calls else [(False, "")]:
        yield [_in_form(message, as_text, empty, in_parts) for message in messages]


def _in_form(message: Message, as_text: bool, empty: str | None, in_parts: bool) -> Message:
    changed = {key: value for key, value in message.items() if key != "loss"}
    if message.get("tool_calls"):
        changed["content"] = message["content"] or empty
        if as_text:
            changed["tool_calls"] = [
                {**call, "function": {**function, "arguments": json.dumps(function["arguments"])}}
                for call in message["tool_calls"]
                for function in [call["function"]]
            ]
    if in_parts and changed["content"] is not None:
        changed["content"] = [{"type": "text", "text": changed["content"]}]
    return changed
