"""Files of any format -> questions about images.

{"index": 3, "image": "iVBO...", "question": "What is it?", "A": "a cat", ...}
      ->  Question(index=3, text="What is it?\\nA. a cat\\n...", the other fields, where the image is)

Images stay in the file until they are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import Selection, take_split
from xtuner.errors import DataError
from xtuner.evaluation.vision.images import image_key, image_value, is_reference, open_image
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a benchmark makes of a row: the text of a question, and fields that only it has."""

    text: str
    more: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A question about an image: its index, text, fields and row number.

    `image` is the number of the row that has the image, or None.
    """

    index: int | str
    text: str
    row: Row
    number: int
    image: int | None = None
    image_key: str = ""


class Rows:
    """The rows of the files that `--data-path` names."""

    def __init__(self, path: str, folders: Sequence[Path]) -> None:
        self.path = path
        self._folders = folders
        self.selection: Selection = take_split(load_dataset(path), None)
        if not len(self.selection):
            raise DataError(translate("{path} has no rows", path=path))
        self.first = self.selection.row(0)

    def place(self, number: int) -> str:
        """The position of a row, for messages."""
        return self.selection.place(number)

    def image(self, question: Question) -> Image | None:
        """The image of a question, or None if it has none; DataError if it cannot be read."""
        if question.image is None:
            return None
        value = image_value(self.selection.row(question.image))
        return open_image(value, self.place(question.number), self._folders)

    def file_of(self, number: int) -> str:
        """The name of the file of a row without its suffix, or the data set's name."""
        for source in self.selection.sources:
            if number < len(source):
                files = source.files if isinstance(source, FileRows) else []
                for file in files:
                    if number < len(file):
                        return Path(file.name).stem
                    number -= len(file)
            number -= len(source)
        return Path(self.path).stem

    def questions(self, ask: Callable[[Row], Iterable[Asked]], index_fields: Sequence[str]) -> list[Question]:
        """The questions that `ask` makes of each row; DataError at a wrong row or an index used twice.

        The index is the first of `index_fields` that rows have, or else the number of the row.
        """
        name = next((name for name in index_fields if name in self.first), None)
        found: list[tuple[Question, int | str]] = []
        images: dict[int | str, _Image] = {}
        for number, row in self.selection:
            index = number if name is None else _index(row.get(name))
            if index == "":
                what = "{place}: the row has no {name}"
                raise DataError(translate(what, place=self.place(number), name=name))
            if index in images:
                what = "{place}: the index {index} is also that of {other}: each question needs its own"
                raise DataError(
                    translate(
                        what, place=self.place(number), index=index, other=self.place(images[index].number)
                    )
                )
            value = image_value(row)
            images[index] = _image_of(number, value)
            fields = {key: cell for key, cell in row.items() if cell is not value}
            for part, asked in enumerate(self._asked(ask, row, number)):
                one = f"{index}_{part}" if part else index
                found.append((Question(one, asked.text, {**fields, **asked.more}, number), index))
        return [_linked(question, images[index], images) for question, index in found]

    def _asked(self, ask: Callable[[Row], Iterable[Asked]], row: Row, number: int) -> Iterator[Asked]:
        try:
            yield from ask(row)
        except (DataError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(f"{self.place(number)}: {error}") from error


@dataclass(frozen=True)
class _Image:
    """The image of row `number`: a hash of it, or the index of the row that has it."""

    number: int
    key: str
    refers_to: int | str | None = None


def _image_of(number: int, value: Any) -> _Image:
    if is_reference(value):
        return _Image(number, str(value), _index(value))
    return _Image(number, image_key(value))


def _linked(question: Question, image: _Image, images: Mapping[int | str, _Image]) -> Question:
    """`question` with the row that has its image."""
    seen: set[int | str] = set()
    while image.refers_to is not None and image.refers_to in images and image.refers_to not in seen:
        seen.add(image.refers_to)
        image = images[image.refers_to]
    return replace(question, image=image.number if image.key else None, image_key=image.key)


def _index(value: Any) -> int | str:
    """An index as a number if it is one: cells of tables are texts."""
    if isinstance(value, (int, float)) and value == int(value):
        return int(value)
    text = "" if value is None else str(value).strip()
    return int(text) if text.isdecimal() else text
