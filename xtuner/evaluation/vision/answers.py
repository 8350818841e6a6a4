"""Greedy answers to questions about images, each appended to a file as it comes.

questions, those about one image together
   ──image, prompt──> requests ──engine, batch_size at a time──> {"index": 3, "prediction": "B"}
                                                                 {"index": 5, "error": "the image ..."}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from xtuner import json_lines
from xtuner.chat.session import make_session
from xtuner.dataset.encoding.progress import show_rates
from xtuner.errors import DataError, ModelError, NotFoundError
from xtuner.evaluation.answer_line import AnswerLine
from xtuner.evaluation.run_folder import Line
from xtuner.evaluation.vision.rows import Question, Rows
from xtuner.generation.generate import answer, make_request
from xtuner.generation.limits import context_length
from xtuner.generation.pictures import Picture, Pictures
from xtuner.generation.request import Request, Sampling
from xtuner.language import translate


@dataclass(frozen=True)
class Answering:
    """The model that answers, and how it is asked."""

    model: Any
    tokenizer: Any
    pictures: Pictures | None
    template: Mapping[str, Any] | None
    bot_name: str = "BOT"
    stop_words: Sequence[str] = ()
    max_new_tokens: int = 100
    batch_size: int = 8
    stretches_images: bool = False  # to a square, instead of padding


def part_of(questions: Sequence[Question], rank: int, size: int) -> list[Question]:
    """The questions that process `rank` of `size` answers: those about one image together, in order."""
    groups: dict[Any, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.image_key or ("", question.number), []).append(question)
    return [question for group in list(groups.values())[rank::size] for question in group]


def answer_questions(how: Answering, rows: Rows, questions: Sequence[Question], file: IO[bytes]) -> None:
    """Write a line for each question; ModelError if there are images and the model cannot read them."""
    if how.pictures is None and any(question.image is not None for question in questions):
        what = (
            "this model reads no images: name a vision-language model, or add --llava and --visual-encoder "
            "to its language model"
        )
        raise ModelError(translate(what))
    num_done = num_tokens = 0
    with show_rates(translate("answering"), len(questions)) as advance:

        def write(line: Line, tokens: int = 0) -> None:
            nonlocal num_done, num_tokens
            json_lines.append(file, [line], sync=False)
            num_done, num_tokens = num_done + 1, num_tokens + tokens
            advance(num_done, num_tokens)

        requests = _requests(how, rows, questions, write)
        answer(how.model, how.tokenizer, requests, pictures=how.pictures, max_running=how.batch_size)


def _requests(
    how: Answering, rows: Rows, questions: Sequence[Question], write: Callable[..., None]
) -> Iterator[Request]:
    context = context_length(how.model)
    key, picture = None, None
    for question in questions:
        try:
            if picture is None or question.image_key != key:
                key, picture = question.image_key, _picture(how, rows, question)
            shown = () if picture is None else (picture,)
            session = make_session(
                how.tokenizer, how.template, "", how.bot_name, context, how.pictures, shown
            )
            ids = session.ask(question.text, how.max_new_tokens)
            words = [*(session.template.get("STOP_WORDS") or []), *how.stop_words]
            sampling = Sampling(how.max_new_tokens, temperature=0.0, stop_words=tuple(dict.fromkeys(words)))
            listener = AnswerLine(question.index, write)
            request = make_request(how.model, ids, sampling, listener.listen)
        except (DataError, NotFoundError) as error:
            write({"index": question.index, "error": " ".join(str(error).split())})
            continue
        request.pictures = shown
        yield request


def _picture(how: Answering, rows: Rows, question: Question) -> Picture | None:
    image = rows.image(question)
    if image is None or how.pictures is None:
        return None
    if how.stretches_images:
        image = how.pictures.vision.stretched(image)
    return how.pictures.add(image)
