"""Calls are found in an answer for any split into pieces."""

import pytest

from xtuner.chat.server.tool_calls import Call, CallFinder

ADD = Call("add", '{"a": 1}')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("just < text", ["just < text"]),
        ('So: <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', ["So: ", ADD]),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>!', [ADD, "!"]),
        ('<|action_start|><|plugin|>{"name": "add", "parameters": {"a": 1}}<|action_end|>', [ADD]),
        ('<|python_tag|>{"name": "add", "parameters": {"a": 1}}', [ADD]),
        (
            '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, {"name": "b", "arguments": {}}]',
            [ADD, Call("b", "{}")],
        ),
        (' {"name": "add", "parameters": {"a": 1}}', [ADD]),
        ('{"answer": 42}', ['{"answer": 42}']),
        ("<tool_call>{broken</tool_call> more", ["<tool_call>{broken</tool_call> more"]),
        (
            '<tool_call>{"name": "add", "arguments": 3}</tool_call>',
            ['<tool_call>{"name": "add", "arguments": 3}</tool_call>'],
        ),
        ('<tool_call>{"name": 1}', ['<tool_call>{"name": 1}']),
        ("  ", ["  "]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls(text, found, size):
    """Text stays in order and whole; an invalid call is text."""
    finder = CallFinder()
    parts = [part for i in range(0, len(text), size) for part in finder.push(text[i : i + size])]
    parts += finder.finish()
    joined = []
    for part in parts:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    assert joined == found


def test_plain_text_is_not_held_back():
    """Text that cannot be the start of a mark is returned at once."""
    finder = CallFinder()
    assert list(finder.push("Hello")) == ["Hello"]
    assert list(finder.push(" you <")) == [" you "]
    assert list(finder.push("b>")) == ["<b>"]
