"""MSAgent-Bench: conversations with tool calls, rewritten as ReAct turns in Chinese.

{"conversations": [{"from": "system" | "user" | "assistant", "value": "..."}, ...]}

system     ... {"name": "weather", "description": ..., "paths": [...]} ...
user       Will it rain?
assistant  Let me see. <|startofthink|>{"api_name", "parameters"}<|endofthink|>
           <|startofexec|>{"rain": "no"}<|endofexec|> It will not.

-> {system: the tools and the rules, input: "Will it rain?", output: "Thought: Action: Action Input:"}
   {system: "Response:{'rain': 'no'}", output: "Final Answer:It will not."}
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from xtuner.dataset.map_fns.fields import Row, items, text
from xtuner.errors import DataError
from xtuner.language import translate

_EXEC = re.compile(r"<\|startofexec\|>(.*?)<\|endofexec\|>", re.DOTALL)
_THINK = re.compile(r"<\|startofthink\|>(.*?)<\|endofthink\|>", re.DOTALL)

# The wording is part of the data format: models tuned with it expect it, and so does the chat side.
_RULES = """你是一个可以调用外部工具的助手，可以使用的工具包括：
{tools}
如果使用工具请遵循以下格式回复：
```
Thought:思考你当前步骤需要解决什么问题，是否需要使用工具
Action:工具名称，你的工具必须从 [{names}] 选择
Action Input:工具输入参数
```
工具返回按照以下格式回复：
```
Response:调用工具后的结果
```
如果你已经知道了答案，或者你不需要工具，请遵循以下格式回复
```
Thought:给出最终答案的思考过程
Final Answer:最终答案
```
开始!
"""


class _UnreadableDialogueError(Exception):
    """A tool call or a result cannot be parsed."""


def msagent_react_map_fn(example: Row) -> dict:
    """The conversation as ReAct turns; empty if it is too short or a call in it cannot be parsed."""
    try:
        messages = _messages(example)
        return {"conversation": _turns(messages) if len(messages) >= 2 else []}
    except _UnreadableDialogueError:
        return {"conversation": []}


def _messages(example: Row) -> list[Row]:
    dialogue = example.get("conversations")
    if isinstance(dialogue, str):
        try:
            dialogue = ast.literal_eval(dialogue)
        except (ValueError, SyntaxError):
            raise _UnreadableDialogueError from None
        return items({"conversations": dialogue}, "conversations")
    return items(example, "conversations")


def _turns(messages: list[Row]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    system = asked = ""
    for message in messages:
        speaker, words = text(message, "from"), text(message, "value")
        if speaker == "system":
            system = _rules(words)
        elif speaker == "user":
            asked += words + "\n"
        elif speaker == "assistant":
            # Splitting at a group gives words, result, words, result, ..., words.
            first, *rest = _EXEC.split(words)
            turns.append({"system": system, "input": asked, "output": _step(first)})
            for result, then in zip(rest[::2], rest[1::2], strict=True):
                turns.append({"system": f"Response:{_parse(result)}\n", "output": _step(then)})
            system = asked = ""
        else:
            raise DataError(
                translate(
                    "a message is from {speaker!r}; known are 'system', 'user' and 'assistant'",
                    speaker=speaker,
                )
            )
    return turns


def _rules(words: str) -> str:
    """The rules of ReAct with the tools that `words` describe, or `words` if they describe none."""
    tools = {}
    for found in _json_objects(words):
        if "name" in found and "description" in found:
            tools[found["name"]] = found["description"] + _parameters(found)
    if not tools:
        return words
    return react_rules(tools)


def react_rules(tools: dict[str, str]) -> str:
    """The system text with `tools` (name: description and parameters) and the rules for calls."""
    return _RULES.replace("{tools}", str(tools), 1).replace("{names}", str(list(tools)), 1)


def _parameters(tool: dict[str, Any]) -> str:
    try:
        known = {p["name"]: p["description"] for path in tool.get("paths", []) for p in path["parameters"]}
    except (KeyError, TypeError):
        raise _UnreadableDialogueError from None
    return f"\n输入参数: {known}" if known else ""


def _json_objects(words: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects in `words`."""
    decoder = json.JSONDecoder()
    start = words.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(words, start)
            yield found
        except ValueError:
            end = start + 1
        start = words.find("{", end)


def _step(words: str) -> str:
    """One step of ReAct: a call if `words` contain one, else the final answer."""
    call = _THINK.search(words)
    if call is None:
        return f"Final Answer:{words.strip()}\n"
    arguments = _parse(call.group(1))
    if not isinstance(arguments, dict) or "api_name" not in arguments or "parameters" not in arguments:
        raise _UnreadableDialogueError
    return (
        f"Thought:{words[: call.start()].strip()}\nAction:{arguments['api_name']}\n"
        f"Action Input:{arguments['parameters']}\n{words[call.end() :]}\n"
    )


def _parse(words: str) -> Any:
    """The object in JSON or Python syntax, with or without a fence of backquotes."""
    body = re.sub(r"^\s*```(?:json)?|```\s*$", "", words, flags=re.IGNORECASE).strip()
    try:
        return json.loads(body)
    except ValueError:
        pass
    try:
        return ast.literal_eval(body)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise _UnreadableDialogueError from None
