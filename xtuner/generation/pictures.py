"""Images in a dialogue: ids below zero, one for each feature row of the image encoder.

    text     "<s>USER: " mark "\\nWhat is it?"       mark: a number between two characters that no text has
    ids      1 3148 1001 29901  -9830401 -9830402 ... -9830976  13 5618 338 372 29973
    inputs   embeddings of the words, features of the images

So everything that works on ids (kept caches, prompts read in chunks, answers generated together) works on
images too. An image always has the same ids, so the next turn of a dialogue reuses its keys.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from xtuner.dataset.images.decode import read_image
from xtuner.dataset.images.shape import bounded_for, expand_to_square
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

    from xtuner.model.vision.image_encoder import ImageEncoder

_INDEX_BITS = 16  # bits for the index of a row in its image; the rest of 63 identify the image
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # Unicode reserves these characters for internal use
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


@dataclass(eq=False)
class Picture:
    """An image in a dialogue; it is encoded when the model first reads it."""

    key: int
    length: int
    pixels: torch.Tensor
    features: torch.Tensor | None = None

    @property
    def ids(self) -> list[int]:
        """The ids of the image in a prompt."""
        return [-1 - (self.key << _INDEX_BITS | index) for index in range(self.length)]

    @property
    def mark(self) -> str:
        """The mark of the image in a text."""
        return f"{_OPEN}{self.key}{_CLOSE}"


class Pictures:
    """The images of all dialogues with one model; an image is dropped with its last reference."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder = encoder
        self._known: WeakValueDictionary[int, Picture] = WeakValueDictionary()
        # With a secret key nobody can construct two images with the same hash.
        self._secret = secrets.token_bytes(16)

    def read(self, path: str | Path) -> Picture:
        """The picture in the file `path`."""
        return self.add(read_image(path))

    def add(self, image: Image, adapter: str | None = None) -> Picture:
        """The picture of `image`, with ids of its own for each `adapter`, whose features may differ."""
        if self.encoder.background is not None:
            image = expand_to_square(image, self.encoder.background)
        image = bounded_for(image, self.encoder.processor, translate("the image"))
        pixels = self.encoder.pixels(image)
        content = pixels.numpy().tobytes() + str(adapter).encode()
        digest = hashlib.blake2b(content, digest_size=8, key=self._secret).digest()
        key = int.from_bytes(digest, "big") >> (_INDEX_BITS + 1)
        picture = self._known.get(key) or Picture(key, self.encoder.length, pixels)
        self._known[key] = picture
        return picture

    def forget_features(self) -> None:
        """Drop the features of all images, after the model has changed."""
        for picture in list(self._known.values()):
            picture.features = None

    def encode(self, tokenizer: Any, text: str, *, special_tokens: bool = False) -> list[int]:
        """The ids of `text`, with those of the pictures instead of their marks.

        As each format of LLaVA was trained: with a token for the image, or piece by piece.
        """
        if self.encoder.image_token is not None:
            return self._encode_around_token(tokenizer, text, self.encoder.image_token, special_tokens)
        ids, start = [], 0
        for match in _MARK.finditer(text):
            if picture := self._known.get(int(match[1])):
                ids += _encode(tokenizer, text[start : match.start()]) + picture.ids
                start = match.end()
        return ids + _encode(tokenizer, text[start:])

    def _encode_around_token(self, tokenizer: Any, text: str, token: str, special_tokens: bool) -> list[int]:
        own = tokenizer.convert_tokens_to_ids(token)
        ids_of_tokens: list[list[int]] = []  # of each image token, which a user may have typed

        def write(match: re.Match[str]) -> str:
            picture = self._known.get(int(match[1])) if match[1] else None
            if match[1] and picture is None:
                return match.group()
            ids_of_tokens.append(picture.ids if picture else [own])
            return token

        text = re.sub(f"{_MARK.pattern}|{re.escape(token)}", write, text)
        replacements = iter(ids_of_tokens)
        ids = tokenizer.encode(text, add_special_tokens=special_tokens)
        return [i for one in ids for i in (next(replacements) if one == own else [one])]

    def inputs(self, model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The argument of the forward of `model` for `ids`: ids, or embeddings if they contain an image."""
        is_image = ids < 0
        if not is_image.any():
            return {"input_ids": ids}
        embeddings = model.get_input_embeddings()(ids.clamp(min=0))
        code = -1 - ids
        keys, indices = code >> _INDEX_BITS, code & (2**_INDEX_BITS - 1)
        for key in keys[is_image].unique().tolist():
            here = is_image & (keys == key)
            rows = self._features(self._known[key])[indices[here]]
            embeddings[here] = rows.to(embeddings)
        return {"inputs_embeds": embeddings}

    def _features(self, picture: Picture) -> torch.Tensor:
        if picture.features is None:
            picture.features = self.encoder.encode(picture.pixels)
        return picture.features


def model_inputs(model: Any, ids: torch.Tensor, pictures: Pictures | None) -> dict[str, torch.Tensor]:
    """The argument of the forward of `model` that holds `ids`."""
    return {"input_ids": ids} if pictures is None else pictures.inputs(model, ids)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []
