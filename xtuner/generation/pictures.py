"""Images in a dialogue: ids below zero, one for each row that the encoder makes of an image.

    text     "<s>USER: " mark "\\nWhat is it?"       mark: two characters that no text has, a number between
    ids      1 3148 1001 29901  -9830401 -9830402 ... -9830976  13 5618 338 372 29973
    inputs   words as the embedding has them, images as the encoder made them

So all that works on ids (keys that are kept, prompts read in chunks, answers written together) works on
images too. The same image has the same ids, so the next turn of a dialogue finds its keys again.
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

from xtuner.dataset.image import expand_to_square, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from xtuner.model.llava import ImageEncoder

_PLACES = 16  # bits for the place of a row in its image; the rest of 63 tells the image
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # characters that Unicode keeps for a program's own use
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


@dataclass(eq=False)
class Picture:
    """An image that questions may show; it is encoded when it is first read."""

    key: int
    length: int
    pixels: torch.Tensor
    features: torch.Tensor | None = None

    @property
    def ids(self) -> list[int]:
        """What stands for it in a prompt."""
        return [-1 - (self.key << _PLACES | place) for place in range(self.length)]

    @property
    def mark(self) -> str:
        """What stands for it in a text."""
        return f"{_OPEN}{self.key}{_CLOSE}"


class Pictures:
    """The images of all dialogues with one model; whoever asks about one keeps it alive."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder = encoder
        self._known: WeakValueDictionary[int, Picture] = WeakValueDictionary()
        # Nobody can make an image that is taken for another one.
        self._secret = secrets.token_bytes(16)

    def read(self, path: str | Path) -> Picture:
        """The picture in the file `path`."""
        return self.add(read_image(path))

    def add(self, image: Image, seen_by: str | None = None) -> Picture:
        """The picture of `image`; adapters may see it in different ways, `seen_by` is one's name."""
        if self.encoder.background is not None:
            image = expand_to_square(image, self.encoder.background)
        pixels = self.encoder.pixels(image)
        content = pixels.numpy().tobytes() + str(seen_by).encode()
        digest = hashlib.blake2b(content, digest_size=8, key=self._secret).digest()
        key = int.from_bytes(digest, "big") >> (_PLACES + 1)
        picture = self._known.get(key) or Picture(key, self.encoder.length, pixels)
        self._known[key] = picture
        return picture

    def forget_features(self) -> None:
        """Encode anew what is read from now on, since the model has changed."""
        for picture in list(self._known.values()):
            picture.features = None

    def encode(self, tokenizer: Any, text: str, *, special_tokens: bool = False) -> list[int]:
        """The ids of `text`, those of pictures in the place of their marks.

        As each form of LLaVA was trained: around a token for the image, or piece by piece.
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
        stands_for: list[list[int]] = []  # for each token, which may also have been typed

        def write(match: re.Match[str]) -> str:
            picture = self._known.get(int(match[1])) if match[1] else None
            if match[1] and picture is None:
                return match.group()
            stands_for.append(picture.ids if picture else [own])
            return token

        text = re.sub(f"{_MARK.pattern}|{re.escape(token)}", write, text)
        places = iter(stands_for)
        ids = tokenizer.encode(text, add_special_tokens=special_tokens)
        return [i for one in ids for i in (next(places) if one == own else [one])]

    def inputs(self, model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The argument of the forward of `model` for `ids`: as they are, or as embeddings."""
        shown = ids < 0
        if not shown.any():
            return {"input_ids": ids}
        embeddings = model.get_input_embeddings()(ids.clamp(min=0))
        code = -1 - ids
        keys, places = code >> _PLACES, code & (2**_PLACES - 1)
        for key in keys[shown].unique().tolist():
            here = shown & (keys == key)
            rows = self._features(self._known[key])[places[here]]
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
