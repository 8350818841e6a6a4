"""Questions for programs: a row -> what the model reads, and the program that tests its answer.

HumanEval   {"task_id": "HumanEval/0", "prompt": "def f(x):\n    ...", "test": "def check(candidate): ...",
             "entry_point": "f"}
MBPP        {"task_id": 2, "text" or "prompt": "Write a function ...", "test_list": ["assert f(1) == 2"],
             "test_setup_code" or "test_imports"}
own         any question of instruction data, and {"tests": "assert ..." or a list of such, "setup": "..."}

A base model continues a text and ends where something else than the function begins (the stop words are those
of HumanEval's paper); a chat model answers a message with code between two fences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.errors import DataError
from xtuner.language import translate

Row = Mapping[str, Any]

STOP_WORDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
# A text between quotes is followed by the whole function, not by its body.
STOP_AFTER_TEXT = ("\nassert", '\n"""', "\nprint", "\nif __name__", "\n```")

_ASK = "Solve the task below with Python. Answer with the whole code, between ```python and ```."
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Code:
    """How a question is asked and tested.

    `start` is the text that a base model continues, `message` what a chat model answers; `before` and `tests`
    surround the code in the program.
    """

    start: str
    message: str
    tests: str
    before: str = ""
    function: str | None = None
    continues_function: bool = False

    @property
    def stop_words(self) -> Sequence[str]:
        """Texts that end a continuation."""
        return STOP_WORDS if self.continues_function else STOP_AFTER_TEXT

    def code_of(self, answer: str, is_continuation: bool) -> str:
        """The code in an answer."""
        if is_continuation:
            return (self.start if self.continues_function else "") + answer
        code = fenced(answer, self.function)
        if not self.continues_function:
            return code
        if self.function is not None and not _defines(code, self.function):
            return self.start + code
        # Imports and other functions of the question, which the answer need not repeat.
        return f"{_as_stub(self.start)}\n\n{code}"

    def program(self, code: str) -> str:
        """The program that runs to its end if `code` is right."""
        return "\n\n".join(part for part in (self.before, code, self.tests) if part) + "\n"


def is_code(row: Row) -> bool:
    """Whether a row has tests of a program."""
    return row.keys() >= {"prompt", "test", "entry_point"} or "test_list" in row or "tests" in row


def read_code(row: Row, question: str | None) -> Code:
    """How the question of a row is asked and tested; `question` is the text of a row of one's own."""
    if row.keys() >= {"prompt", "test", "entry_point"}:
        function = _text(row, "entry_point")
        start = _text(row, "prompt")
        message = f"{_ASK}\n\n```python\n{start.rstrip()}\n```"
        tests = f"{_text(row, 'test')}\n\ncheck({function})"
        return Code(start, message, tests, "", function, continues_function=True)
    if "test_list" in row:
        text = _text(row, "text" if "text" in row else "prompt")
        tests = _lines(row, "test_list")
        before = _lines(row, "test_setup_code") or _lines(row, "test_imports")
        shown = f"{text.strip()}\n{tests}"
        return Code(f'"""\n{shown}\n"""\n', f"{_ASK}\n\n{text.strip()}\n\nTests:\n{tests}", tests, before)
    if question is None:
        raise DataError(translate("the row asks nothing"))
    tests = _lines(row, "tests")
    if not tests:
        raise DataError(translate("the field 'tests' is empty"))
    asked = question.strip().replace('"""', "'''")
    return Code(f'"""\n{asked}\n"""\n', f"{_ASK}\n\n{asked}", tests, _lines(row, "setup"))


def _text(row: Row, name: str) -> str:
    if name not in row:
        raise DataError(translate("the row has no field {name}", name=repr(name)))
    if not isinstance(row[name], str):
        what = "the field {name!r} is no text: {value!r:.80}"
        raise DataError(translate(what, name=name, value=row[name]))
    return str(row[name])


def _lines(row: Row, name: str) -> str:
    """The text of a field, or the lines of its list; "" if it is empty or missing."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip("\n")
    if not isinstance(value, Sequence) or not all(isinstance(line, str) for line in value):
        what = "the field {name!r} is neither text nor a list of texts: {value!r:.80}"
        raise DataError(translate(what, name=name, value=value))
    return "\n".join(value)


def fenced(answer: str, function: str | None = None) -> str:
    """The code between fences that defines `function`, or all code of Python, or the whole answer."""
    blocks = [(kind.lower(), code) for kind, code in _FENCE.findall(answer)]
    python = [code for kind, code in blocks if kind in ("python", "py", "python3")]
    found = python or [code for _, code in blocks]
    if function is not None and (whole := [code for code in found if _defines(code, function)]):
        return whole[-1]
    return found[0] if found else answer


def _defines(code: str, function: str) -> bool:
    name = re.escape(function)
    return re.search(rf"^\s*(?:async\s+)?def\s+{name}\b|^{name}\s*=", code, re.M) is not None


def _as_stub(start: str) -> str:
    """The beginning of a function, as a whole one; "" if it cannot be made one."""
    for text in (start, f"{start.rstrip()}\n    pass\n"):
        try:
            compile(text, "prompt.py", "exec")
        except SyntaxError:
            continue
        return text.rstrip()
    return ""
