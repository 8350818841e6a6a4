"""A dialogue as token ids: exactly those that training makes of the same conversation.

    turn 1   <s> | SYSTEM INSTRUCTION | answer SUFFIX </s> | SEP
    turn 2   <s> |        INSTRUCTION | answer SUFFIX </s> | SEP      no </s>, second <s> with SUFFIX_AS_EOS
                   encoded on its own   the model's own ids

Earlier turns are kept as ids and never encoded again, so what the model has read stays what it was
and its keys and values can be kept. Where the context is full the oldest turns go, the system text stays.
So does an image: it stands before the words of whichever turn is the first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xtuner.chat.typed import ControlTokens
from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.encoding.conversations import begin_ids, end_ids
from xtuner.errors import DataError
from xtuner.generation.generate import Completion
from xtuner.generation.limits import prompt_limit
from xtuner.generation.pictures import Picture, Pictures
from xtuner.generation.text_stream import decode
from xtuner.log import logger
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What is typed goes to the model as it is.
RAW = {"SYSTEM": "{system}\n", "INSTRUCTION": "{input}"}


@dataclass(frozen=True)
class Turn:
    """One question and its answer, closed as in training; `system` is the turn's own system text."""

    text: str
    number: int
    prompt: list[int]
    answer: list[int]
    answer_text: str
    system: str = ""


class Session:
    """The history of one dialogue under a prompt template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Mapping[str, Any] | None = None,
        system: str = "",
        bot_name: str = "BOT",
        context: int | None = None,
        pictures: Pictures | None = None,
        picture: Picture | None = None,
        control: ControlTokens | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = RAW if template is None else template
        self.system = system
        self.bot_name = bot_name
        self.context = context
        self.pictures = pictures
        self.picture = picture
        self.control = control
        self.turns: list[Turn] = []
        self._number = 0

    def reset(self) -> None:
        """Forget all turns."""
        self.turns = []
        self._number = 0

    def undo(self) -> bool:
        """Forget the last question with all that followed it; whether there was one."""
        if not self.turns:
            return False
        start = max(self._questions(), default=0)
        self._number -= len(self.turns) - start
        self.turns = self.turns[:start]
        return True

    def _questions(self) -> list[int]:
        """Where questions of the user's stand; other turns answer to tools."""
        return [place for place, turn in enumerate(self.turns) if turn.text or not turn.system]

    def set_system(self, system: str) -> None:
        """Put `system` in the place of the system text; the turns stay."""
        self.system = system
        if self.turns:
            self._encode_first()

    def ask(self, text: str, max_new_tokens: int, system: str = "") -> list[int]:
        """The ids to put to the model for `text`; drops the oldest turns where the context is too small.

        `system` is a system text of this turn alone, such as what a tool has answered.
        """
        ids, num_dropped = self.fit(text, max_new_tokens, system)
        if num_dropped:
            logger.warning(
                "Remove the memory of the %d oldest responses, since it exceeds the length limitation %d.",
                num_dropped,
                self.context,
            )
        return ids

    def fit(self, text: str, max_new_tokens: int, system: str = "") -> tuple[list[int], int]:
        """The ids as `ask` gives them, and how many of the oldest turns were dropped for them."""
        limit = prompt_limit(self.context, max_new_tokens)
        ids = self.history_ids() + self.prompt_ids(text, system)
        if limit is None or len(ids) <= limit:
            return ids, 0
        kept = self.turns
        starts = [start for start in self._questions() if start > 0]
        # What a tool has answered is of no use without its question.
        starts += [] if system else [len(kept)]

        def fits(start: int) -> bool:
            nonlocal ids
            self._keep(kept[start:])
            ids = self.history_ids() + self.prompt_ids(text, system)
            return len(ids) <= limit

        at = bisect_left(starts, True, key=fits)
        if not starts or not fits(starts[min(at, len(starts) - 1)]):
            self.turns = kept
            raise DataError(
                f"this input has {len(ids)} tokens; the context of {self.context} leaves room for {limit}"
            )
        return ids, starts[at]

    def answered(self, text: str, completion: Completion, ends: set[int], system: str = "") -> None:
        """Add the turn that `completion` answers to the history; `ends` are the end-of-sequence ids."""
        answer = self.close(completion, ends)
        prompt = self.prompt_ids(text, system)
        self._number += 1
        self.turns.append(Turn(text, self._number, prompt, answer, completion.text, system))

    def history_ids(self) -> list[int]:
        """The ids of all turns so far."""
        return [i for turn in self.turns for i in (*turn.prompt, *turn.answer)]

    def recall(
        self, pairs: Sequence[tuple[str, str]], max_new_tokens: int, may_fit: Callable[[str], bool]
    ) -> None:
        """Continue a dialogue of `pairs` (question, answer): as many of the newest as the context may hold.

        Texts that `may_fit` denies are not encoded: no pair up to theirs is taken.
        """
        limit = prompt_limit(self.context, max_new_tokens)
        suffix = self.template.get("SUFFIX") or ""
        turns: list[Turn] = []
        length = 0
        for number in range(len(pairs), 0, -1):
            question, text = pairs[number - 1]
            if not (may_fit(question) and may_fit(text)):
                break
            finish = "stop" if suffix else "length"
            answer = self.close(Completion(text, self._encode(text + suffix), finish, 0.0), set())
            prompt = self._encode_prompt(question, number, "", is_first=False)
            turns.append(Turn(question, number, prompt, answer, text))
            length += len(prompt) + len(answer)
            if limit is not None and length > limit:
                break
        self._number = len(pairs)
        self._keep(turns[::-1])

    def _keep(self, turns: list[Turn]) -> None:
        """Let `turns` be all there are; the first one carries the beginning and the system text."""
        self.turns = turns
        if turns:
            self._encode_first()

    def _encode_first(self) -> None:
        first = self.turns[0]
        system = _both(self.system, first.system)
        prompt = self._encode_prompt(first.text, first.number, system, is_first=True)
        self.turns = [replace(first, prompt=prompt), *self.turns[1:]]

    def prompt_ids(self, text: str, system: str = "") -> list[int]:
        """The ids of the next question alone."""
        is_first = not self.turns
        system = _both(self.system, system) if is_first else system
        return self._encode_prompt(text, self._number + 1, system, is_first)

    def _encode_prompt(self, text: str, number: int, system: str, is_first: bool) -> list[int]:
        text = self._with_picture(text) if is_first else text
        rendered = render_prompt(self.template, text, system=system, round=number, bot_name=self.bot_name)
        begin = begin_ids(self.tokenizer).tolist() if is_first or self._ends_with_eos else []
        return begin + self._encode(rendered)

    @property
    def _ends_with_eos(self) -> bool:
        return not self.template.get("SUFFIX_AS_EOS", False)

    def _with_picture(self, text: str) -> str:
        """The first question as it is put: below the image, where there is one."""
        return text if self.picture is None else f"{self.picture.mark}\n{text}"

    def _encode(self, text: str) -> list[int]:
        return (
            self._encode_part(text) if self.control is None else self.control.encode(text, self._encode_part)
        )

    def _encode_part(self, text: str) -> list[int]:
        if text and self.pictures is not None:
            return self.pictures.encode(self.tokenizer, text)
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def messages(self, text: str, system: str = "", *, with_picture: bool = False) -> list[dict[str, str]]:
        """The dialogue up to the question `text`; `with_picture`: the image's mark above the first."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        questions = [(turn.text, turn.system) for turn in self.turns] + [(text, system)]
        if with_picture:
            questions[0] = self._with_picture(questions[0][0]), questions[0][1]
        for number, question in enumerate(questions):
            messages += _question(*question)
            if number < len(self.turns):
                messages.append({"role": "assistant", "content": self.turns[number].answer_text})
        return messages

    def close(self, completion: Completion, ends: set[int]) -> list[int]:
        """The ids of an answer as training ends it: with SUFFIX or end of sequence, then SEP."""
        suffix = self.template.get("SUFFIX") or ""
        body = list(completion.ids)
        while body and body[-1] in ends:
            body.pop()
        if completion.finish == "stop" and not (suffix and decode(self.tokenizer, body).endswith(suffix)):
            # It stopped at another word, or in the middle of a token: the text is what was said.
            body = self._encode(completion.text + suffix)
        elif suffix and not decode(self.tokenizer, body).endswith(suffix):
            body += self._encode(suffix)
        eos = end_ids(self.tokenizer).tolist() if self._ends_with_eos else []
        return body + eos + self._encode(self.template.get("SEP") or "")


class ChatTemplateSession(Session):
    """A dialogue in the form of the tokenizer's own `chat_template`, rendered anew at every turn."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Mapping[str, Any] | None = None,
        system: str = "",
        bot_name: str = "BOT",
        context: int | None = None,
        pictures: Pictures | None = None,
        picture: Picture | None = None,
    ) -> None:
        self._own = ChatTemplate(tokenizer)
        end = self._own.end_of_turn()
        template = {**PROMPT_TEMPLATE.auto, "STOP_WORDS": [end] if end else []}
        super().__init__(tokenizer, template, system, bot_name, context, pictures, picture)

    def history_ids(self) -> list[int]:
        return []

    def prompt_ids(self, text: str, system: str = "") -> list[int]:
        messages = self.messages(text, system, with_picture=True)
        return encode_rendered(self.tokenizer, self._own.write(messages, prompt=True), self.pictures)

    def close(self, completion: Completion, ends: set[int]) -> list[int]:
        return []

    def _encode_first(self) -> None:
        pass


def _both(system: str, own: str) -> str:
    """The system text of the dialogue and that of its first turn, one under the other."""
    return f"{system.rstrip()}\n{own}" if system and own else system or own


def _question(text: str, system: str) -> list[dict[str, str]]:
    """A question as messages; what stands before it goes in as training puts it there."""
    before = [{"role": "system", "content": system}] if system else []
    return before + ([{"role": "user", "content": text}] if text or not system else [])


def make_session(
    tokenizer: PreTrainedTokenizerBase,
    template: Mapping[str, Any] | None,
    system: str = "",
    bot_name: str = "BOT",
    context: int | None = None,
    pictures: Pictures | None = None,
    picture: Picture | None = None,
) -> Session:
    """A dialogue under `template`: one of ours, PROMPT_TEMPLATE.auto for the tokenizer's own, or none."""
    kind = ChatTemplateSession if is_tokenizers_own(template) else Session
    return kind(tokenizer, template, system, bot_name, context, pictures, picture)


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    pictures: Pictures | None,
    control: ControlTokens | None = None,
) -> list[int]:
    """The ids of what the tokenizer's own template has written."""
    # Templates of LLaVA leave the beginning of the sequence to the tokenizer.
    begins = pictures is None or (bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token)))

    def encode(part: str) -> list[int]:
        nonlocal begins
        special, begins = not begins, True
        if pictures is None:
            return list(tokenizer.encode(part, add_special_tokens=False))
        return pictures.encode(tokenizer, part, special_tokens=special)

    return encode(text) if control is None else control.encode(text, encode)
