"""Images in a dialogue: ids below zero, one for each row of features.

    text     "<s>USER: " mark "\\nWhat is it?"       mark: a number between two characters that no text has
    ids      1 3148 1001 29901  -9830401 -9830402 ... -9830976  13 5618 338 372 29973
    inputs   embeddings of the words, features of the images

So everything that works on ids (kept caches, prompts read in chunks, answers generated together) works on
images too. An image always has the same ids, so the next turn of a dialogue reuses its keys.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from xtuner.dataset.images.decode import read_image
from xtuner.dataset.map_fns.images import IMAGE_MARK
from xtuner.errors import DataError
from xtuner.generation.vision import Features, ReadImage, Vision
from xtuner.language import translate
from xtuner.model.vision.positions import image_types

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Mapping[str, Any]

_INDEX_BITS = 16  # bits for the index of a row in its image; the rest of 63 identify the image
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # Unicode reserves these characters for internal use
_MARK = re.compile(f"{_OPEN}[0-9]+{_CLOSE}")
_TYPED = f"{_OPEN}typed{_CLOSE}"  # the placeholder of an image, in the text of a user


@dataclass(eq=False)
class Picture:
    """An image in a dialogue; it is encoded when the model first reads it.

    `among_others`: the image in a dialogue with several, if the model reads it in another way there.
    `name`: the file that it came from.
    """

    key: int
    read: ReadImage
    among_others: Picture | None = None
    name: str = ""
    features: Features | None = None

    @property
    def length(self) -> int:
        """The number of ids."""
        return self.read.length

    @property
    def ids(self) -> list[int]:
        """The ids of the image in a prompt."""
        return [-1 - (self.key << _INDEX_BITS | index) for index in range(self.length)]

    @property
    def mark(self) -> str:
        """The mark of the image in a text."""
        return f"{_OPEN}{self.key}{_CLOSE}"


@dataclass(frozen=True)
class Inputs:
    """Arguments of a model's forward, and those that its decoder gets besides."""

    forward: dict[str, Any]
    decoder: dict[str, Any] = field(default_factory=dict)


class Pictures:
    """The images of all dialogues with one model; an image is dropped with its last reference."""

    def __init__(self, vision: Vision) -> None:
        self.vision = vision
        self._known: WeakValueDictionary[int, Picture] = WeakValueDictionary()
        # With a secret key nobody can construct two images with the same hash.
        self._secret = secrets.token_bytes(16)

    def read(self, path: str | Path) -> Picture:
        """The picture in the file `path`."""
        return self.add(read_image(path), name=str(path))

    def add(self, image: Image, adapter: str | None = None, name: str = "") -> Picture:
        """The picture of `image`, with ids of its own for each `adapter`, whose features may differ."""
        picture = self._add(self.vision.read(image), adapter, name)
        if self.vision.depends_on_others and picture.among_others is None:
            several = self.vision.read(image, is_alone=False)
            picture.among_others = self._add(several, adapter, name)
        return picture

    def _add(self, read: ReadImage, adapter: str | None, name: str) -> Picture:
        if read.length >= 2**_INDEX_BITS:
            what = "an image has {count} tokens: at most {most} are possible"
            raise DataError(translate(what, count=read.length, most=2**_INDEX_BITS - 1))
        digest = hashlib.blake2b(repr((adapter, read.text)).encode(), digest_size=8, key=self._secret)
        for argument, tensor in sorted(read.tensors.items()):
            digest.update(f"{argument} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy())  # numpy has no bfloat16
        key = int.from_bytes(digest.digest(), "big") >> (_INDEX_BITS + 1)
        picture = self._known.get(key) or Picture(key, read, name=name)
        self._known[key] = picture
        return picture

    @property
    def num_bytes(self) -> int:
        """The bytes of all images as the encoder takes them."""
        return sum(t.nbytes for picture in list(self._known.values()) for t in picture.read.tensors.values())

    def forget_features(self) -> None:
        """Drop the features of all images, after the model has changed."""
        for picture in list(self._known.values()):
            picture.features = None

    # --- texts ---------------------------------------------------------------------------------------------

    def count(self, text: str) -> int:
        """The number of images in `text`."""
        return sum(self._find(mark) is not None for mark in _MARK.findall(text))

    def in_text(self, text: str) -> str:
        """`text`, a question with marks, as it is put where no chat template writes its images."""
        return self.vision.in_text(text, _MARK)

    def rendered(self, messages: Sequence[Message], write: Callable[[Sequence[Message]], str]) -> str:
        """The text that `write`, a chat template, makes of messages with marks; it has the marks too."""
        placeholder = self.vision.placeholder
        if not self.count("".join(message.get("content") or "" for message in messages)):
            return write(messages)
        if placeholder is None or not _writes_images(write, placeholder):
            return write([self._changed(message, self.in_text) for message in messages])
        marks: list[str] = []

        def in_parts(text: str) -> str:
            marks.extend(_MARK.findall(text))
            return _MARK.sub(IMAGE_MARK, text.replace(placeholder, _TYPED))

        pieces = write([self._changed(message, in_parts) for message in messages]).split(placeholder)
        if len(pieces) != len(marks) + 1:
            what = "the chat template writes {count} images, and the dialogue has {images}"
            raise DataError(translate(what, count=len(pieces) - 1, images=len(marks)))
        text = "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""], strict=True))
        return text.replace(_TYPED, placeholder)

    def _changed(self, message: Message, change: Callable[[str], str]) -> Message:
        content = message.get("content")
        return {**message, "content": change(content)} if content else message

    def encode(
        self,
        tokenizer: Any,
        text: str,
        *,
        special_tokens: bool = False,
        are_several: bool = False,
        indices: Iterator[int] | None = None,
    ) -> list[int]:
        """The ids of `text`, with those of the pictures instead of their marks.

        As the model was trained: with the tokens of images, or piece by piece. `are_several`: the dialogue
        has more than one image. `indices`: of the images among those of the dialogue, from 0 if not given.
        """
        if self.vision.tokens:
            indices = itertools.count() if indices is None else indices
            return self._encode_with_tokens(tokenizer, text, special_tokens, are_several, indices)
        ids, start = [], 0
        for match in _MARK.finditer(text):
            if picture := self._find(match[0]):
                ids += _encode(tokenizer, text[start : match.start()]) + picture.ids
                start = match.end()
        return ids + _encode(tokenizer, text[start:])

    def _encode_with_tokens(
        self, tokenizer: Any, text: str, special_tokens: bool, are_several: bool, indices: Iterator[int]
    ) -> list[int]:
        tokens = self.vision.tokens
        own = dict(zip(tokens, tokenizer.convert_tokens_to_ids(list(tokens)), strict=True))
        found: list[int] = []  # for each token of an image, which a user may have typed

        def write(match: re.Match[str]) -> str:
            if match[0] in own:
                found.append(own[match[0]])
                return match[0]
            picture = self._find(match[0])
            if picture is None:
                return match[0]
            picture = picture.among_others if are_several and picture.among_others else picture
            found.extend(picture.ids)
            return self.vision.numbered(picture.read.text, next(indices))

        text = re.sub("|".join([_MARK.pattern, *map(re.escape, tokens)]), write, text)
        ids = tokenizer.encode(text, add_special_tokens=special_tokens)
        own_ids = set(own.values())
        if sum(one in own_ids for one in ids) != len(found):
            what = "the tokenizer does not write {token} as one token, so an image has no place in the text"
            raise DataError(translate(what, token=" ".join(tokens)))
        replacements = iter(found)
        return [next(replacements) if one in own_ids else one for one in ids]

    def _find(self, mark: str) -> Picture | None:
        return self._known.get(int(mark[1:-1]))

    # --- inputs of the model -------------------------------------------------------------------------------

    def positions(self, prompt: Sequence[int]) -> Tensor | None:
        """The positions [3, tokens] of `prompt`, or None if they are counted as usual."""
        ids = torch.tensor(prompt)
        is_image = ids < 0
        if not is_image.any():
            return None
        # An image begins where the index of its rows does.
        begins = is_image & (_rows_of(ids) == 0)
        images = [self._known[key].read for key in _keys_of(ids[begins]).tolist()]
        return self.vision.positions(ids, is_image, images)

    def whole(self, prompt: Sequence[int], end: int) -> int:
        """`end`, or the end of the image that it would divide, if its rows see each other."""
        if not self.vision.attends_both_ways or not 0 < end < len(prompt) or prompt[end - 1] >= 0:
            return end
        key = _keys_of(prompt[end - 1])
        while end < len(prompt) and prompt[end] < 0 and _keys_of(prompt[end]) == key:
            end += 1
        return end

    def inputs(self, model: Any, row: Sequence[int], start: int, device: torch.device) -> Inputs:
        """The arguments for the tokens of `row` after the first `start`, which were read before."""
        ids = torch.tensor([row[start:]], device=device)
        is_image = ids < 0
        if not is_image.any():
            return Inputs({"input_ids": ids})
        embeddings = model.get_input_embeddings()(ids.clamp(min=0))
        keys, rows = _keys_of(ids), _rows_of(ids)
        deep: list[Tensor] = []
        for key in keys[is_image].unique().tolist():
            here = is_image & (keys == key)
            features = self._features(self._known[key])
            embeddings[here] = features.rows[rows[here].to(features.rows.device)].to(embeddings)
            deep = deep or [embeddings.new_zeros(embeddings.shape) for _ in features.deep]
            for level, given in zip(deep, features.deep, strict=True):
                level[here] = given[rows[here].to(given.device)].to(level)
        forward: dict[str, Any] = {"inputs_embeds": embeddings}
        if self.vision.attends_both_ways:
            # The mask is made of the whole row.
            forward.update(image_types(model, torch.tensor([row], device=device) < 0))
        forward.update(self.vision.of_tokens(ids, is_image))
        decoder: dict[str, Any] = {}
        if deep:
            levels = [level[is_image] for level in deep]
            decoder = {"visual_pos_masks": is_image, "deepstack_visual_embeds": levels}
        return Inputs(forward, decoder)

    def _features(self, picture: Picture) -> Features:
        if picture.features is None:
            picture.features = self.vision.encode(picture.read)
        return picture.features


def _keys_of(ids: Any) -> Any:
    """The keys of the images that `ids` below zero belong to."""
    return (-1 - ids) >> _INDEX_BITS


def _rows_of(ids: Any) -> Any:
    """The numbers of rows in their images."""
    return (-1 - ids) & (2**_INDEX_BITS - 1)


def _writes_images(write: Callable[[Sequence[Message]], str], placeholder: str) -> bool:
    """Whether a chat template writes the placeholder of an image for a part of a message."""
    try:
        return write([{"role": "user", "content": f"{IMAGE_MARK}Qzx0z"}]).count(placeholder) == 1
    except DataError:
        return False


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []
