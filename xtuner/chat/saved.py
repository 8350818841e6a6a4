"""A dialogue as a file, in a format that training reads.

[{"conversation": [{"system": "Be kind.", "input": "hello", "output": "Hi!"}, {"input": ..., "output": ...}]}]
[{"image": "cat.png", "conversation": [{"input": "<image>\\nWhat is it?", "output": "A cat."}]}]
"""

from __future__ import annotations

import json
from pathlib import Path

from xtuner.chat.session import Session
from xtuner.errors import DataError, NotFoundError
from xtuner.generation.generate import Completion
from xtuner.log import logger
from xtuner.utils import DEFAULT_IMAGE_TOKEN

_SHOWN = f"{DEFAULT_IMAGE_TOKEN}\n"


def save(session: Session, path: Path, image: str | None = None) -> None:
    """Write the turns of `session`, about `image`, to `path`; other files are not overwritten."""
    if path.exists():
        try:
            _read(path)
        except DataError:
            raise DataError(f"{path} exists and is not a dialogue: name another file") from None
    conversation = []
    for number, turn in enumerate(session.turns):
        system = "\n".join(filter(None, [session.system if number == 0 else "", turn.system]))
        opening = {"system": system} if system else {}
        shown = _SHOWN if number == 0 and image is not None else ""
        conversation.append({**opening, "input": shown + turn.text, "output": turn.answer_text})
    row = {**({"image": image} if image is not None else {}), "conversation": conversation}
    text = json.dumps([row], ensure_ascii=False, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def load(session: Session, path: Path, ends: set[int]) -> None:
    """Replace the turns of `session` by those in `path`."""
    turns = _read(path)
    session.reset()
    session.set_system(turns[0].get("system") or "" if turns else "")
    for number, turn in enumerate(turns):
        own = turn.get("system") or "" if number else ""
        answer = turn["output"]
        ids = session.tokenizer.encode(answer, add_special_tokens=False)
        question = turn["input"]
        if not number and question.startswith(_SHOWN):
            question = question.removeprefix(_SHOWN)
            if session.picture is None:
                logger.warning("%s is about an image, but none is loaded: see --image", path)
        session.answered(question, Completion(answer, list(ids), "end", 0.0), ends, own)


def _read(path: Path) -> list[dict[str, str]]:
    """The turns of the one dialogue in `path`."""
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        (row,) = rows if isinstance(rows, list) else [rows]
        turns = row["conversation"]
        words = [turn[key] for turn in turns for key in ("input", "output")]
        words += [turn.get("system") or "" for turn in turns]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        words = turns = [None]
    if not all(isinstance(word, str) for word in words):
        raise DataError(
            f'{path} is no dialogue: it needs [{{"conversation": [{{"input": "...", "output": "..."}}]}}]'
        )
    return turns
