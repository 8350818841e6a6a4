"""An agent: the model thinks, calls tools and answers, in the format of `msagent_react_map_fn`.

system   the tools and the rules
user     How high is Everest in feet?
model    Thought: I must look it up.        "Response:" and what the tool answered is the system text
         Action: search                     of the next turn, whose question is empty
         Action Input: {"query": "height of Everest"}
system   Response: 8849 m
model    Thought: ... Final Answer: 29,032 feet
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from xtuner.chat.answer import Answerer, Show
from xtuner.chat.plugins.tool import Tool, ToolError
from xtuner.dataset.map_fns.msagent_react import react_rules
from xtuner.generation.generate import Completion
from xtuner.language import translate
from xtuner.log import logger

MAX_STEPS = 8
_MAX_UNREADABLE = 2  # consecutive replies; a model that does not know the format will not learn it
STOP_WORDS = ("Response:", "Response：")
# Models tuned with this format know Chinese rules, so corrections are in Chinese.
_FORM = "格式错误，请按照 Thought、Action、Action Input 的格式调用工具，或者用 Final Answer: 给出最终答案"
_ENOUGH = "不能再调用工具，请用 Final Answer: 给出最终答案"

_CALL = re.compile(
    r"Action\s*[:：][ \t]*(?P<name>[^\n]*?)\s*\n\s*Action\s*Input\s*[:：]\s*(?P<input>.*)", re.DOTALL
)
_FINAL = re.compile(r"Final\s*Answer\s*[:：]\s*(?P<answer>.*)", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A parsed reply of the model: an answer, a call of a tool, or neither if it cannot be parsed."""

    answer: str | None = None
    name: str | None = None
    input: str = ""


def read_step(text: str) -> Step:
    """The step in `text`; a call that precedes an answer is done first."""
    call, final = _CALL.search(text), _FINAL.search(text)
    if final and not (call and call.start() < final.start()):
        return Step(answer=final["answer"].strip())
    if call:
        wanted = _FINAL.sub("", call["input"]) if final else call["input"]
        return Step(name=call["name"].strip().strip("`'\""), input=wanted.strip())
    return Step()


def read_arguments(text: str, tool: Tool) -> dict[str, Any]:
    """The arguments in `text`: JSON, a Python dict, or plain text if the tool has one parameter."""
    body = re.sub(r"^```\w*\s*|\s*```$", "", text).strip()
    value = _literal(body)
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    if not body and not tool.required:
        return {}
    if len(tool.required or tool.parameters) == 1 and not body.startswith("{"):
        return {next(iter(tool.required or tool.parameters)): value if isinstance(value, str) else body}
    takes = ", ".join(tool.parameters) or "nothing in it"
    raise ToolError(f"Action Input is not a JSON object with {takes}: {text}")


def _literal(text: str) -> Any:
    """The value at the start of `text`, or None if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def rules(tools: Sequence[Tool], system: str = "") -> str:
    """The system text for an agent with `tools`; `system` is the user's own, before it."""
    described = {
        tool.name: tool.description + (f"\n输入参数: {dict(tool.parameters)}" if tool.parameters else "")
        for tool in tools
    }
    text = react_rules(described)
    return f"{system.rstrip()}\n{text}" if system else text


class Agent:
    """Answers questions in several turns with calls of tools between them."""

    def __init__(self, answerer: Answerer, tools: Sequence[Tool], max_steps: int = MAX_STEPS) -> None:
        self._answerer = answerer
        self._tools = {tool.name: tool for tool in tools}
        self._max_steps = max_steps

    def __call__(self, text: str, show: Show) -> Completion:
        """All steps up to the answer; its `text` is the final answer."""
        completion = self._answerer.turn(text + "\n", show, stop_words=STOP_WORDS)
        first, seconds, ids = completion.first_seconds, completion.seconds, list(completion.ids)
        unreadable = 0
        for number in range(1, self._max_steps + 1):
            step = read_step(completion.text)
            unreadable = 0 if step.name is not None else unreadable + 1
            if step.answer is not None or completion.finish == "cancelled":
                break
            if unreadable >= _MAX_UNREADABLE or number == self._max_steps:
                logger.warning(
                    translate("The agent ended without a final answer: its last words are the answer")
                )
                break
            response = _ENOUGH if number == self._max_steps - 1 else self._response(step)
            system = f"Response:{response}\n"
            show(f"\n{system}")
            completion = self._answerer.turn("", show, system=system, stop_words=STOP_WORDS)
            seconds += completion.seconds
            ids += completion.ids
        answer = read_step(completion.text).answer
        said = completion.text if answer is None else answer
        return replace(completion, text=said, ids=ids, seconds=seconds, first_seconds=first)

    def _response(self, step: Step) -> str:
        """The result of the tool, or the error of the call."""
        if step.name is None:
            return _FORM
        tool = self._tools.get(step.name)
        try:
            if tool is None:
                raise ToolError(f"there is no tool {step.name!r}; there are {', '.join(self._tools)}")
            result = tool.call(read_arguments(step.input, tool))
        except ToolError as error:
            logger.info(translate("Tool %s: %s"), step.name, error)
            return f"Error: {error}"
        return result
