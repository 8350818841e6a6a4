"""A judge: verdicts on many questions, several at a time, each in a file before the next one is asked.

grades.jsonl   {"index": "own/3", "key": "9f86...", "verdict": "7", "reply": "It is right.\\nGrade: 7"}
               {"index": "own/4", "key": "51c0...", "error": "no verdict in its reply", "reply": "..."}

`key` is a hash of judge, prompt and texts: whatever has a line with its key is not judged again.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner import json_lines
from xtuner.dataset.encoding.progress import show_rates
from xtuner.errors import ConfigError, DataError
from xtuner.evaluation.judge.forms import Form
from xtuner.evaluation.run_folder import Line
from xtuner.evaluation.text.address import KEY, Address, Generation
from xtuner.evaluation.text.threads import in_threads
from xtuner.language import translate
from xtuner.log import logger
from xtuner.paths import is_address

JUDGE_KEY = "XTUNER_JUDGE_API_KEY"
"""The key of the judge, where it is another one than that of the model."""
LENGTH = 4096
"""Tokens of a reply, with the thoughts of a model that thinks."""


@dataclass(frozen=True)
class Item:
    """What is judged: its name, and the texts for the slots of the prompt."""

    name: str
    values: Mapping[str, str | None]


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The question that a judge reads: one message alone, or a conversation with the role of each."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


class Judge:
    """A model at an address that gives verdicts of one form; `prompt_file`: the user's own prompt."""

    def __init__(
        self, url: str, name: str | None, form: Form, prompt_file: str | None, concurrency: int
    ) -> None:
        if not is_address(url):
            what = "--judge {url} is no address, such as http://host:8000/v1"
            raise ConfigError(translate(what, url=url))
        self._form, self._concurrency = form, concurrency
        self._own = form.read(prompt_file)
        self._address = Address(url, name, flag="--judge-model", keys=(JUDGE_KEY, KEY))
        self.name = self._address.name

    def judge(self, items: Sequence[Item], file: Path) -> dict[str, Line]:
        """The line of each item, by name: those in `file`, and new ones, which are appended to it."""
        prompts = {item.name: self._form.prompt(item.values, self._own) for item in items}
        keys = {name: self._key(prompt) for name, prompt in prompts.items()}
        json_lines.repair(file)
        known = list(json_lines.read(file)) if file.exists() else []
        found = {line["index"]: line for line in known if keys.get(line["index"]) == line["key"]}
        rest = [name for name in prompts if name not in found]
        if found:
            what = translate("%d of %d verdicts are there already, the judge goes on after them")
            logger.info(what, len(found), len(prompts))
        num_tokens = 0
        with file.open("ab") as out, show_rates(translate("judging"), len(rest)) as advance:

            def write(answered: tuple[Line, int]) -> None:
                nonlocal num_tokens
                line, tokens = answered
                json_lines.append(out, [line], sync=False)
                found[line["index"]] = line
                num_tokens += tokens
                advance(len(found) - len(prompts) + len(rest), num_tokens)

            try:
                asked = [functools.partial(self._ask, name, keys[name], prompts[name]) for name in rest]
                in_threads(asked, self._concurrency, write)
            finally:
                os.fsync(out.fileno())
                self._address.close()
        return found

    def _key(self, prompt: str) -> str:
        return hashlib.sha256("\0".join([self._address.url, self.name, prompt]).encode()).hexdigest()[:16]

    def _ask(self, name: str, key: str, prompt: str) -> tuple[Line, int]:
        """The line of one item, and the number of tokens: a reply without a verdict is asked about once."""
        line: Line = {"index": name, "key": key}
        messages = [{"role": "user", "content": prompt}]
        replies: list[str] = []
        num_tokens = 0
        try:
            for _ in range(2):
                reply = self._address.answer(messages, Generation(LENGTH))
                num_tokens += reply.num_tokens
                replies.append(reply.text)
                if (verdict := self._form.verdict(reply.text)) is not None:
                    return {**line, "verdict": verdict, "reply": "\n\n".join(replies)}, num_tokens
                messages += [
                    {"role": "assistant", "content": reply.text},
                    {"role": "user", "content": self._form.again(prompt)},
                ]
        except DataError as error:
            return {**line, "error": " ".join(str(error).split()), "reply": "\n\n".join(replies)}, num_tokens
        return {
            **line,
            "error": translate("no verdict in its reply"),
            "reply": "\n\n".join(replies),
        }, num_tokens
