"""A dialogue as token ids: exactly those that training makes of the same conversation.

    turn 1   <s> | SYSTEM INSTRUCTION | answer SUFFIX </s> | SEP
    turn 2   <s> |        INSTRUCTION | answer SUFFIX </s> | SEP      no </s>, second <s> with SUFFIX_AS_EOS
                   encoded on its own   the model's own ids

Earlier turns are kept as ids and never encoded again, so what the model has read stays what it was
and its keys and values can be kept. Where the context is full the oldest turns go, the system text stays.

An image belongs to the question that it was shown with, and goes with its turn. Images that the dialogue
begins with (`opening`) stay: they stand before the words of whichever turn is the first.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xtuner.chat.typed import ControlTokens
from xtuner.dataset.encoding.chat_template import ChatTemplate, Tools
from xtuner.dataset.encoding.conversations import begin_ids, end_ids
from xtuner.errors import DataError
from xtuner.generation.generate import Completion
from xtuner.generation.limits import prompt_limit
from xtuner.generation.pictures import Picture, Pictures
from xtuner.generation.text_stream import decode
from xtuner.language import translate
from xtuner.log import logger
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What is typed goes to the model as it is.
RAW = {"SYSTEM": "{system}\n", "INSTRUCTION": "{input}"}


@dataclass(frozen=True)
class Turn:
    """One question and its answer, closed as in training; `system` is the turn's own system text.

    `pictures`: the images that were shown with the question.
    """

    text: str
    number: int
    prompt: list[int]
    answer: list[int]
    answer_text: str
    system: str = ""
    pictures: tuple[Picture, ...] = ()


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
        opening: Sequence[Picture] = (),
        control: ControlTokens | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = RAW if template is None else template
        self.system = system
        self.bot_name = bot_name
        self.context = context
        self.pictures = pictures
        self.opening = tuple(opening)
        self.control = control
        self.turns: list[Turn] = []
        self.shown: tuple[Picture, ...] = ()  # with the next question
        self._number = 0
        self._are_several = False

    def show(self, picture: Picture) -> None:
        """Show an image with the next question."""
        self.shown = (*self.shown, picture)

    def reset(self) -> None:
        """Forget all turns, and the images that were shown in them."""
        self.turns = []
        self.shown = ()
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
        self._encode_turns(range(1))

    def ask(self, text: str, max_new_tokens: int, system: str = "") -> list[int]:
        """The ids to put to the model for `text`; drops the oldest turns where the context is too small.

        `system` is a system text of this turn alone, such as what a tool has answered.
        """
        ids, num_dropped = self.fit(text, max_new_tokens, system)
        if num_dropped:
            logger.warning(
                translate(
                    "Remove the memory of the %d oldest responses, since it exceeds the length limitation %d."
                ),
                num_dropped,
                self.context,
            )
        return ids

    def fit(self, text: str, max_new_tokens: int, system: str = "") -> tuple[list[int], int]:
        """The ids as `ask` gives them, and how many of the oldest turns were dropped for them."""
        limit = prompt_limit(self.context, max_new_tokens)
        self._count_images(text)
        ids = self.history_ids() + self.prompt_ids(text, system)
        if limit is None or len(ids) <= limit:
            return ids, 0
        kept, are_several = self.turns, self._are_several
        starts = [start for start in self._questions() if start > 0]
        # What a tool has answered is of no use without its question.
        starts += [] if system else [len(kept)]

        def fits(start: int) -> bool:
            nonlocal ids
            self._keep(kept[start:], text)
            ids = self.history_ids() + self.prompt_ids(text, system)
            return len(ids) <= limit

        at = bisect_left(starts, True, key=fits)
        if not starts or not fits(starts[min(at, len(starts) - 1)]):
            self.turns, self._are_several = kept, are_several
            raise DataError(
                translate(
                    "this input has {count} tokens; the context of {context} leaves room for {limit}",
                    count=len(ids),
                    context=self.context,
                    limit=limit,
                )
            )
        return ids, starts[at]

    def answered(self, text: str, completion: Completion, ends: set[int], system: str = "") -> None:
        """Add the turn that `completion` answers to the history; `ends` are the end-of-sequence ids."""
        answer = self.close(completion, ends)
        prompt = self.prompt_ids(text, system)
        self._number += 1
        self.turns.append(Turn(text, self._number, prompt, answer, completion.text, system, self.shown))
        self.shown = ()

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

    def _keep(self, turns: list[Turn], text: str = "") -> None:
        """Let `turns` be all before `text`; the first one carries the beginning and the system text."""
        self.turns = turns
        self._count_images(text)
        self._encode_turns(range(len(turns) if self._are_numbered else 1))

    def _count_images(self, text: str) -> None:
        """Encode questions again if the model reads their images in another way, with `text` after them."""
        if self.pictures is None or not self.pictures.vision.depends_on_others:
            return
        texts = "".join([*(turn.text for turn in self.turns), text])
        shown = [*self.opening, *self.shown, *(p for turn in self.turns for p in turn.pictures)]
        are_several = len(shown) + self.pictures.count(texts) > 1
        if are_several != self._are_several:
            self._are_several = are_several
            self._encode_turns(range(len(self.turns)))

    def _encode_turns(self, places: range) -> None:
        """Encode the turns at `places` again, as far as there are such turns."""
        self.turns = [self._encoded_again(n) if n in places else turn for n, turn in enumerate(self.turns)]

    def _encoded_again(self, place: int) -> Turn:
        turn, is_first = self.turns[place], place == 0
        system = _both(self.system, turn.system) if is_first else turn.system
        before = self._images_before(place)
        prompt = self._encode_prompt(turn.text, turn.number, system, is_first, turn.pictures, before)
        return replace(turn, prompt=prompt)

    @property
    def _are_numbered(self) -> bool:
        return self.pictures is not None and self.pictures.vision.numbers_images

    def _images_before(self, place: int) -> int:
        """The number of images before those of the turn at `place`, where the model reads their numbers."""
        if self.pictures is None or not self._are_numbered or place == 0:
            return 0
        before = self.turns[:place]
        own = sum(len(turn.pictures) + self.pictures.count(turn.text) for turn in before)
        return len(self.opening) + own  # an opening is of the first turn

    def prompt_ids(self, text: str, system: str = "") -> list[int]:
        """The ids of the next question alone."""
        is_first = not self.turns
        system = _both(self.system, system) if is_first else system
        before = self._images_before(len(self.turns))
        return self._encode_prompt(text, self._number + 1, system, is_first, self.shown, before)

    def _encode_prompt(
        self,
        text: str,
        number: int,
        system: str,
        is_first: bool,
        pictures: Sequence[Picture] = (),
        images_before: int = 0,
    ) -> list[int]:
        text = self._marked(text, is_first, pictures)
        text = text if self.pictures is None else self.pictures.in_text(text)
        rendered = render_prompt(self.template, text, system=system, round=number, bot_name=self.bot_name)
        begin = begin_ids(self.tokenizer).tolist() if is_first or self._ends_with_eos else []
        return begin + self._encode(rendered, images_before)

    @property
    def _ends_with_eos(self) -> bool:
        return not self.template.get("SUFFIX_AS_EOS", False)

    def _marked(self, text: str, is_first: bool, pictures: Sequence[Picture]) -> str:
        """A question after the marks of its images."""
        shown = [*(self.opening if is_first else ()), *pictures]
        return "".join(picture.mark for picture in shown) + text

    def _encode(self, text: str, images_before: int = 0) -> list[int]:
        indices = itertools.count(images_before)

        def encode(part: str) -> list[int]:
            if part and self.pictures is not None:
                several = self._are_several
                return self.pictures.encode(self.tokenizer, part, are_several=several, indices=indices)
            return list(self.tokenizer.encode(part, add_special_tokens=False)) if part else []

        return encode(text) if self.control is None else self.control.encode(text, encode)

    def messages(self, text: str, system: str = "", *, with_marks: bool = False) -> list[dict[str, str]]:
        """The dialogue up to the question `text`; `with_marks`: those of images before its questions."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        questions = [(turn.text, turn.system, turn.pictures) for turn in self.turns]
        for number, (words, own, shown) in enumerate([*questions, (text, system, self.shown)]):
            messages += _question(self._marked(words, number == 0, shown) if with_marks else words, own)
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
        opening: Sequence[Picture] = (),
    ) -> None:
        self._own = ChatTemplate(tokenizer)
        end = self._own.end_of_turn()
        template = {**PROMPT_TEMPLATE.auto, "STOP_WORDS": [end] if end else []}
        super().__init__(tokenizer, template, system, bot_name, context, pictures, opening)

    def history_ids(self) -> list[int]:
        return []

    def prompt_ids(self, text: str, system: str = "") -> list[int]:
        messages = self.messages(text, system, with_marks=True)
        return encode_rendered(self.tokenizer, rendered(self._own, messages, self.pictures), self.pictures)

    def close(self, completion: Completion, ends: set[int]) -> list[int]:
        return []

    def _encode_turns(self, places: range) -> None:
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
    opening: Sequence[Picture] = (),
) -> Session:
    """A dialogue under `template`: one of ours, PROMPT_TEMPLATE.auto for the tokenizer's own, or none."""
    kind = ChatTemplateSession if is_tokenizers_own(template) else Session
    return kind(tokenizer, template, system, bot_name, context, pictures, opening)


def rendered(
    own: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    pictures: Pictures | None,
    tools: Tools = None,
) -> str:
    """What the tokenizer's own template writes for `messages`, with the marks of images in it."""
    if pictures is None:
        return own.write(messages, tools, prompt=True)
    return pictures.rendered(messages, lambda some: own.write(some, tools, prompt=True))


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    pictures: Pictures | None,
    control: ControlTokens | None = None,
) -> list[int]:
    """The ids of what the tokenizer's own template has written."""
    # Templates of LLaVA leave the beginning of the sequence to the tokenizer.
    begins = pictures is None or (bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token)))
    are_several = pictures is not None and pictures.count(text) > 1
    indices = itertools.count()

    def encode(part: str) -> list[int]:
        nonlocal begins
        special, begins = not begins, True
        if pictures is None:
            return list(tokenizer.encode(part, add_special_tokens=False))
        return pictures.encode(
            tokenizer, part, special_tokens=special, are_several=are_several, indices=indices
        )

    return encode(text) if control is None else control.encode(text, encode)
