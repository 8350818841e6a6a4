"""The plugins of MOSS: the model writes commands, gets their results, and writes its answer.

<|Human|>: What is 3 * 4?<eoh>
<|Inner Thoughts|>: I need to calculate.<eot>         the model, up to <eoc>
<|Commands|>: Calculate("3 * 4")<eoc>
<|Results|>:                                          we
Calculate("3 * 4") => 12
<eor>
<|MOSS|>: It is 12.<eom>                              the model, up to <eom>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from xtuner.chat.answer import Answerer, Show
from xtuner.chat.plugins.tool import Tool, ToolError
from xtuner.errors import ConfigError
from xtuner.generation.generate import Completion
from xtuner.generation.text_stream import decode
from xtuner.language import translate
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE
from xtuner.utils.templates import fill_placeholders

MAX_CALLS = 4  # in one turn
_COMMANDS = re.compile(r"<\|Commands\|>:(.*)", re.DOTALL)
_CALL = re.compile(r'(Calculate|Solve|Search)\("([^"]*)"\)')
_LINES = {
    "search": "- Web search: enabled. API: Search(query)\n",
    "calculate": "- Calculator: enabled. API: Calculate(expression)\n",
    "solve": "- Equation solver: enabled. API: Solve(equation)\n",
}

# A turn ends only with <eom>.
MOSS_TEMPLATE = {
    **PROMPT_TEMPLATE.moss_sft,
    "SUFFIX": "<eom>",
    "SUFFIX_AS_EOS": True,
    "STOP_WORDS": ["<eom>"],
}


def check_template(template: Mapping[str, Any] | None) -> None:
    """Raise ConfigError if the dialogue is not in MOSS's format."""
    if template != PROMPT_TEMPLATE.moss_sft:
        raise ConfigError(
            translate(
                "--with-plugins needs a model tuned on MOSS's dialogues: add --prompt-template "
                "moss_sft if it is one, or --lagent for any other"
            )
        )


def system_text(names: Sequence[str], bot_name: str) -> str:
    """MOSS's system text with the plugins `names` enabled and the others disabled."""
    text = SYSTEM_TEMPLATE.moss_sft
    for name, line in _LINES.items():
        if name not in names:
            text = text.replace(line, line.partition(" enabled")[0] + " disabled.\n")
    return fill_placeholders(text, round=1, bot_name=bot_name)


class MossAnswerer:
    """Answers questions with the help of plugins."""

    def __init__(self, answerer: Answerer, tools: Sequence[Tool]) -> None:
        self._answerer = answerer
        self._tools = {tool.name: tool for tool in tools}

    def __call__(self, text: str, show: Show) -> Completion:
        """The whole turn: thoughts, commands, results and answer."""
        answerer, session = self._answerer, self._answerer.session
        prompt = session.ask(text, answerer.settings.max_new_tokens)
        thought = answerer.complete(prompt, show, [*answerer.stop_words, "<eoc>"])
        if thought.finish != "stop" or "<eoc>" not in decode(session.tokenizer, thought.ids):
            session.answered(text, thought, answerer.ends)
            return thought
        results = f"<eoc>\n{self._results(thought.text)}"
        show(results)
        ids = self._encode(thought.text + results)
        answer = answerer.complete(prompt + ids, show, answerer.stop_words)
        whole = replace(
            answer,
            text=thought.text + results + answer.text,
            ids=ids + answer.ids,
            first_seconds=thought.first_seconds,
            seconds=thought.seconds + answer.seconds,
        )
        session.answered(text, whole, answerer.ends)
        return whole

    def _encode(self, text: str) -> list[int]:
        return list(self._answerer.tokenizer.encode(text, add_special_tokens=False))

    def _results(self, text: str) -> str:
        """The results of the commands in `text`, in MOSS's format."""
        commands = _COMMANDS.search(text)
        calls = _CALL.findall(commands.group(1)) if commands else []
        if not calls:
            return "<|Results|>: None<eor>\n"
        lines = [self._result(name, argument) for name, argument in calls[:MAX_CALLS]]
        return "<|Results|>:\n" + "".join(lines) + "<eor>\n"

    def _result(self, name: str, argument: str) -> str:
        tool = self._tools.get(name.lower())
        try:
            if tool is None:
                raise ToolError(f"{name} is disabled")
            result = tool.call({next(iter(tool.parameters)): argument})
        except ToolError as error:
            result = f"Error: {error}"
        else:
            if name == "Search":
                result = "\n".join(f"<|{n}|>: '{line}'" for n, line in enumerate(result.splitlines(), 1))
        return f'{name}("{argument}") =>{" " if name == "Calculate" else chr(10)}{result}\n'
