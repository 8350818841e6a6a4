"""A dialogue in the terminal, or with a script on stdin.

input lines, an empty one ends them  ->  EXIT | RESET | a question  ->  the answer, word by word
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xtuner.chat.generate import Completion, KeptCache, complete, context_length, end_ids
from xtuner.chat.session import Session, make_session
from xtuner.chat.trained_with import choose_template
from xtuner.errors import ConfigError, DataError
from xtuner.log import logger
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE
from xtuner.utils.templates import fill_placeholders

PROMPT = "\ndouble enter to end input (EXIT: exit chat, RESET: reset history) >>> "


@dataclass(frozen=True)
class Settings:
    """What `xtuner chat` was asked for."""

    model: str
    adapter: str | None = None
    torch_dtype: str = "fp16"
    bits: int | None = None
    offload_folder: str | None = None
    prompt_template: str | None = None
    system: str | None = None
    system_template: str | None = None
    bot_name: str = "BOT"
    stop_words: list[str] = field(default_factory=list)
    stream: bool = True
    max_new_tokens: int = 2048
    temperature: float = 0.1
    top_k: int = 40
    top_p: float = 0.75
    repetition_penalty: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be meant."""
        rules = [
            ("max-new-tokens", self.max_new_tokens, self.max_new_tokens > 0, "1 or more"),
            ("temperature", self.temperature, self.temperature >= 0, "0 (always the likeliest) or more"),
            ("top-k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition-penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0"),
        ]
        for name, value, holds, cure in rules:
            if not holds:
                raise ConfigError(f"--{name} is {value}: write {cure}.")
        if self.bits not in (None, 4, 8):
            raise ConfigError(f"--bits is {self.bits}: write 4, 8 or None.")


def chat(settings: Settings) -> None:
    """Load what `settings` name and talk until EXIT or the end of the input."""
    settings.check()
    # Names are looked up before minutes go into loading.
    template = choose_template(
        settings.prompt_template, [f for f in (settings.adapter, settings.model) if f is not None]
    )
    system = system_text(settings)
    from xtuner.model.loading import load_for_chat

    model, tokenizer = load_for_chat(
        settings.model,
        adapter=settings.adapter,
        dtype=settings.torch_dtype,
        bits=settings.bits,
        offload_folder=settings.offload_folder,
    )
    if template is None and getattr(tokenizer, "chat_template", None):
        template = PROMPT_TEMPLATE.auto
        logger.info("Prompt template: the tokenizer's own chat_template")
    elif template is None:
        logger.info("No prompt template: what you type goes to the model as it is (see --prompt-template)")
    session = make_session(tokenizer, template, system, settings.bot_name, context_length(model))
    answer = Answerer(model, tokenizer, session, settings)
    talk(session, answer, read_inputs(), sys.stdout.write)


def system_text(settings: Settings) -> str:
    """The system text asked for, as text or by the name of a system template."""
    if settings.system_template is None:
        return settings.system or ""
    return fill_placeholders(SYSTEM_TEMPLATE[settings.system_template], round=1, bot_name=settings.bot_name)


class Answerer:
    """Answers the questions of one session, keeping keys and values from turn to turn."""

    def __init__(self, model: Any, tokenizer: Any, session: Session, settings: Settings) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.session = session
        self.settings = settings
        self.ends = end_ids(model, tokenizer)
        self.cache = KeptCache()
        self.count = 0
        template_words = session.template.get("STOP_WORDS") or []
        self.stop_words = list(dict.fromkeys([*template_words, *settings.stop_words]))

    def __call__(self, text: str, show: Callable[[str], None]) -> Completion:
        """The answer to `text`, shown as it comes, or at once where streaming is off."""
        s = self.settings
        ids = self.session.ask(text, s.max_new_tokens)
        completion = complete(
            self.model,
            self.tokenizer,
            ids,
            max_new_tokens=s.max_new_tokens,
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            repetition_penalty=s.repetition_penalty,
            stop_words=self.stop_words,
            seed=s.seed + self.count,
            on_text=show if s.stream else None,
            cache=self.cache,
        )
        self.count += 1
        if not s.stream:
            show(completion.text)
        self.session.answered(text, completion, self.ends)
        return completion


def talk(
    session: Session,
    answer: Callable[[str, Callable[[str], None]], Completion],
    inputs: Iterator[str],
    write: Callable[[str], Any],
) -> None:
    """The loop of a dialogue: commands, questions, answers, until EXIT or no more input."""

    def show(piece: str) -> None:
        write(piece)
        sys.stdout.flush()

    for text in inputs:
        if text == "EXIT":
            write("Log: Exit!\n")
            return
        if text == "RESET":
            session.reset()
            write("Log: History responses have been removed!\n")
            continue
        try:
            completion = answer(text, show)
        except DataError as e:
            # One question that does not fit is no reason to end the dialogue.
            logger.error("%s", e)
            continue
        write("\n")
        if completion.finish == "length":
            logger.info("The answer was cut after %d tokens", len(completion.ids))
        logger.debug("%d tokens, %.1f tokens/s", len(completion.ids), completion.tokens_per_second)


def read_inputs() -> Iterator[str]:
    """The questions: lines until an empty one; edited on a terminal, read as they are from a script."""
    read_line = _line_editor() if sys.stdin.isatty() and sys.stdout.isatty() else _script_line
    while True:
        lines: list[str] = []
        while True:
            line = read_line("" if lines else PROMPT)
            if line is None or (lines and not line.strip()):
                break
            if line.strip():
                lines.append(line)
        if lines:
            yield "\n".join(lines).strip()
        if line is None:
            return


def _script_line(prompt: str) -> str | None:
    if prompt:
        sys.stdout.write(prompt)
        sys.stdout.flush()
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def _line_editor() -> Callable[[str], str | None]:
    from prompt_toolkit import PromptSession

    editor: PromptSession[str] = PromptSession()

    def read(prompt: str) -> str | None:
        try:
            return editor.prompt(prompt)
        except EOFError:
            return None

    return read
