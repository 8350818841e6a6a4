"""RefCOCO as conversations: find what a sentence names, or name what is in a box.

    row       {"image": "1.jpg", "sents": ["the man on the left"], "bbox": [x, y, w, h], "height": 480, ...}
    RefCOCO   "[refer] where is the man on the left ?\\n<image>"      -> "{<12><30><45><98>}"
    inverse   "[identify] what object is at {<12><30><45><98>} ?..."  -> "the man on the left"

A box is left, top, right and bottom, in hundredths of the image. Each sentence is asked for in seven ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.dataset.llava import LLaVADataset
from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate

_NO_FILE = "there is no data file {path} (looked for {full_path})"
REFER = (
    "[refer] {}",
    "[refer] give me the location of {}",
    "[refer] where is {} ?",
    "[refer] from this image, tell me the location of {}",
    "[refer] the location of {} is",
    "[refer] could you tell me the location for {} ?",
    "[refer] where can I locate the {} ?",
)
IDENTIFY = (
    "[identify] {}",
    "[identify] what object is in this location {}",
    "[identify] identify the object present at this location {}",
    "[identify] what is it in {}",
    "[identify] describe this object in {}",
    "[identify] this {} is",
    "[identify] the object in {} is",
)


class RefCOCOJsonDataset(LLaVADataset):
    """Questions for the box of a sentence, from the file of `xtuner preprocess refcoco`."""

    questions: Sequence[str] = REFER

    def read(self, path: str, max_rows: int | None, seed: int) -> list[dict[str, Any]]:
        """At most `max_rows` conversations, picked by `seed` before any is made."""
        pairs = [(item, sentence) for item in _items(path) for sentence in item["sents"]]
        numbers = np.arange(len(pairs) * len(self.questions))
        if max_rows is not None and max_rows < len(numbers):
            numbers = np.sort(np.random.default_rng(seed).choice(numbers, max_rows, replace=False))
        picked = [divmod(number, len(self.questions)) for number in numbers.tolist()]
        return [self._row(*pairs[pair], question) for pair, question in picked]

    def _row(self, item: Mapping[str, Any], sentence: str, number: int) -> dict[str, Any]:
        question, answer = self.talk(sentence, box_text(item))
        asked = f"{self.questions[number].format(question)}\n<image>"
        talk = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        return {"id": str(item.get("id", "")), "image": item["image"], "conversations": talk}

    def talk(self, sentence: str, box: str) -> tuple[str, str]:
        """What is asked for, and the answer."""
        return sentence, box


class InvRefCOCOJsonDataset(RefCOCOJsonDataset):
    """Questions for the sentence of a box."""

    questions = IDENTIFY

    def talk(self, sentence: str, box: str) -> tuple[str, str]:
        return box, sentence


def box_text(item: Mapping[str, Any]) -> str:
    """The box `[x, y, width, height]` of an item, in hundredths: `{<left><top><right><bottom>}`."""
    numbers = to_hundredths(item["bbox"], item["width"], item["height"])
    return "{" + "".join(f"<{number}>" for number in numbers) + "}"


def to_hundredths(bbox: Sequence[float], width: float, height: float) -> list[int]:
    """The corners of COCO's [x, y, width, height] in pixels, cut to whole hundredths of the image."""
    x, y, w, h = bbox
    return [int(value * 100) for value in (x / width, y / height, (x + w) / width, (y + h) / height)]


def _items(path: str) -> Iterator[dict[str, Any]]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFoundError(translate(_NO_FILE, path=path, full_path=file.resolve()))
    try:
        found = json.loads(file.read_text("utf-8"))
        for item in found:
            box_text(item)
            if not isinstance(item["image"], str) or not isinstance(item["sents"], list):
                raise TypeError("image is no text, or sents no list")
            yield item
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        what = "{path} is not a file of xtuner preprocess refcoco: {error!r}"
        raise DataError(translate(what, path=path, error=error)) from error
