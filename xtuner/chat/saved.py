"""A dialogue as a file, in a format that training reads.

[{"conversation": [{"system": "Be kind.", "input": "hello", "output": "Hi!"}, {"input": ..., "output": ...}]}]
[{"image": ["cat.png", "dog.png"],
  "conversation": [{"input": "<image>\\nWhat is it?", "output": "A cat."},
                   {"input": "<image>\\nAnd this?", "output": "A dog."}]}]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtuner.chat.session import Session
from xtuner.errors import DataError, NotFoundError
from xtuner.generation.generate import Completion
from xtuner.language import translate
from xtuner.log import logger
from xtuner.utils import DEFAULT_IMAGE_TOKEN


def save(session: Session, path: Path) -> None:
    """Write the turns of `session`, with the names of images, to `path`; other files are not overwritten."""
    if path.exists():
        try:
            _read(path)
        except DataError:
            raise DataError(
                translate("{path} exists and is not a dialogue: name another file", path=path)
            ) from None
    conversation, images = [], []
    for number, turn in enumerate(session.turns):
        system = "\n".join(filter(None, [session.system if number == 0 else "", turn.system]))
        opening = {"system": system} if system else {}
        shown = [*(session.opening if number == 0 else ()), *turn.pictures]
        images += [str(Path(picture.name).expanduser().absolute()) for picture in shown]
        marks = DEFAULT_IMAGE_TOKEN * len(shown) + "\n" if shown else ""
        conversation.append({**opening, "input": marks + turn.text, "output": turn.answer_text})
    row: dict[str, Any] = {"conversation": conversation}
    if images:
        row = {"image": images if len(images) > 1 else images[0], **row}
    text = json.dumps([row], ensure_ascii=False, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(
            translate("{path} cannot be written: {error}", path=path, error=error.strerror or error)
        ) from error


def load(session: Session, path: Path, ends: set[int]) -> None:
    """Replace the turns of `session` by those in `path`, with their images."""
    turns, names = _read(path)
    texts, counts = _without_marks([turn["input"] for turn in turns], len(names))
    pictures = session.pictures
    if names and pictures is None:
        logger.warning(translate("%s is about images, which this model does not read"), path)
    # All are read before the dialogue changes: one may be missing.
    shown = [] if pictures is None else [pictures.read(name) for name in names]
    session.reset()
    if shown and tuple(shown[: counts[0]][: len(session.opening)]) == session.opening:
        counts[0] -= len(session.opening)
        shown = shown[len(session.opening) :]
    elif shown:
        session.opening = ()
    session.set_system(turns[0].get("system") or "" if turns else "")
    for number, (turn, question, count) in enumerate(zip(turns, texts, counts, strict=True)):
        own = turn.get("system") or "" if number else ""
        answer = turn["output"]
        ids = session.tokenizer.encode(answer, add_special_tokens=False)
        session.shown, shown = tuple(shown[:count]), shown[count:]
        session.answered(question, Completion(answer, list(ids), "end", 0.0), ends, own)


def _without_marks(questions: list[str], left: int) -> tuple[list[str], list[int]]:
    """The questions without `<image>` at their heads, at most `left` of them, and how many each had."""
    texts, counts = [], []
    for question in questions:
        count = 0
        while count < left and question.startswith(DEFAULT_IMAGE_TOKEN):
            question = question.removeprefix(DEFAULT_IMAGE_TOKEN)
            count += 1
        left -= count
        texts.append(question.removeprefix("\n") if count else question)
        counts.append(count)
    return texts, counts


def _read(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The turns of the one dialogue in `path`, and the names of its images."""
    if not path.is_file():
        raise NotFoundError(translate("there is no file {path}", path=path))
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        (row,) = rows if isinstance(rows, list) else [rows]
        turns, images = row["conversation"], row.get("image") or []
        images = images if isinstance(images, list) else [images]
        words = [turn[key] for turn in turns for key in ("input", "output")]
        words += [turn.get("system") or "" for turn in turns] + images
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        words = turns = [None]
        images = []
    if not all(isinstance(word, str) for word in words):
        raise DataError(
            translate(
                '{path} is no dialogue: it needs [{{"conversation": [{{"input": "...", "output": "..."}}]}}]',
                path=path,
            )
        )
    return turns, images
