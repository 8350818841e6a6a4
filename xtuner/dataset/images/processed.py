"""Images by the processor of a vision-language model: the text of their tokens, and their tensors.

    640 x 480    "<|image_pad|>" 391 times                       from the size alone, but for MiniCPM-OCR
    an image     {"pixel_values": [1564, 1176], "image_grid_thw": [1, 3]}

The family's processor writes both. Its tokenizer is watched for the text, which has the rows and columns of
tiles too. MiniCPM-V also numbers the images of a conversation:

    0    "<image_id>0</image_id><image>..."
    1    "<image_id>1</image_id><image>..."
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from xtuner.dataset.images.shape import bounded_for
from xtuner.errors import DataError
from xtuner.image_processor import OF_TEXT
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]

_BETWEEN = "\ufdd2"  # the texts of two images
BLANK_SIZE = (64, 48)
"""The size of an image that is only there to find out what a processor does."""


@dataclass(frozen=True)
class Numbers:
    """How the texts of the images of a conversation are numbered: the text `before` a number, the `first`."""

    before: str
    first: int

    def written(self, text: str, index: int) -> str:
        """`text`, that of a first image, for the image after `index` others."""
        return text.replace(f"{self.before}{self.first}", f"{self.before}{self.first + index}", 1)


class ProcessedImages:
    """Images of a conversation as the model of `processor` takes them."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.token: str = processor.image_token
        self._texts: dict[tuple[Size, bool], str] = {}

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, with the processor's chat template.

        If the template writes no start token, and the tokenizer adds one to texts, the template does: so do
        processors.
        """
        tokenizer = copy.copy(self.processor.tokenizer)
        template = getattr(self.processor, "chat_template", None) or tokenizer.chat_template
        template = template.get("default") if isinstance(template, dict) else template
        start = tokenizer.bos_token
        if template and start and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
            writes_it = "bos_token" in template or start in template
            template = template if writes_it else "{{ bos_token }}" + template
        tokenizer.chat_template = template
        return tokenizer

    @functools.cached_property
    def token_id(self) -> int:
        """The token whose embeddings are those of images, which may not be the processor's placeholder."""
        tokenizer = self.processor.tokenizer
        if patch := getattr(self.processor, "img_patch_token", None):  # Aya Vision, Llama 4
            return tokenizer.convert_tokens_to_ids(patch)
        named = getattr(tokenizer, "image_token_id", None) or self.processor.image_token_id
        written = self._process(_blanks(1))[1].flatten().tolist()
        # Ovis 2 writes another one, as often as an image has features.
        return named if named in written else Counter(written).most_common(1)[0][0]

    def texts(self, sizes: Sequence[Size]) -> list[str]:
        """The text of the tokens of each image of a conversation, by their widths and heights."""
        return [self.numbered(self._text(size, len(sizes) == 1), n) for n, size in enumerate(sizes)]

    @property
    def depends_on_pixels(self) -> bool:
        """Whether its size does not tell the text of an image: MiniCPM-OCR looks for small letters."""
        return getattr(self.processor.image_processor, "small_image_upsize", None) == "adaptive"

    def texts_of(self, images: Sequence[Image]) -> list[str]:
        """The text of the tokens of each image of a conversation, by their pixels."""
        return self._process(images)[0]

    def numbered(self, text: str, index: int) -> str:
        """`text`, that of an image that is the first of its conversation, after `index` others."""
        return text if index == 0 or self.numbers is None else self.numbers.written(text, index)

    @functools.cached_property
    def numbers(self) -> Numbers | None:
        """How images are numbered, or None if their texts are equal; DataError if they differ otherwise."""
        first, *others = self._process(_blanks(3))[0]
        if others == [first, first]:
            return None
        equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, others[0], strict=False))
        before = "".join(letter for letter, _ in equal)
        number = re.match("[0-9]+", first[len(before) :])
        found = Numbers(before, int(number[0])) if number else None
        if found is None or others != [found.written(first, 1), found.written(first, 2)]:
            what = "the processor writes the images of a conversation in ways that are not known: {texts}"
            raise DataError(translate(what, texts=", ".join(map(repr, [first, *others]))))
        return found

    def inputs(self, images: Sequence[Image], num_tokens: int) -> dict[str, torch.Tensor]:
        """The tensors of the images of a conversation; DataError if they have not `num_tokens` tokens."""
        _, ids, inputs = self._process(images)
        count = int((ids == self.token_id).sum())
        if count != num_tokens:
            what = "its images have {count} tokens, not {num_tokens}: they changed since they were tokenised"
            raise DataError(translate(what, count=count, num_tokens=num_tokens))
        return inputs

    def one(self, image: Image, is_alone: bool) -> tuple[str, int, dict[str, torch.Tensor]]:
        """The text of an image, the number of its tokens that have features, and its tensors.

        Among others (not `is_alone`) the tensors are those of the image twice.
        """
        texts, ids, inputs = self._process([image] if is_alone else [image, image])
        return texts[0], int((ids == self.token_id).sum()) // len(texts), inputs

    def _text(self, size: Size, is_alone: bool) -> str:
        """The text of an image; some families cut only single images into tiles."""
        if (size, is_alone) not in self._texts:
            text = self._text_of_tiles(size)
            self._texts[size, is_alone] = self._text_of_blank(size, is_alone) if text is None else text
        return self._texts[size, is_alone]

    def _text_of_tiles(self, size: Size) -> str | None:
        """The text by the number of tiles alone, which takes no time; None if they are not InternVL's."""
        from transformers import InternVLProcessor

        if not isinstance(self.processor, InternVLProcessor):
            return None
        width, height = size
        counts = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_patches"]
        return self.processor.replace_image_token({"num_patches": counts}, 0)

    def _text_of_blank(self, size: Size, is_alone: bool) -> str:
        return self._process(_blanks(1 if is_alone else 2, size))[0][0]

    def _process(self, images: Sequence[Image]) -> tuple[list[str], torch.Tensor, dict[str, torch.Tensor]]:
        """The text of each image, all token ids, and the tensors of the images."""
        watched = copy.copy(self.processor)
        watched.tokenizer = tokenizer = _Watched(self.processor.tokenizer)
        if not hasattr(self.processor.image_processor, "image_grid_pinpoints"):
            images = [bounded_for(image, self.processor.image_processor, "an image") for image in images]
        text = _BETWEEN.join([self.token] * len(images))
        try:
            found = watched(images=[list(images)], text=[text], return_tensors="pt")
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
            raise DataError(
                translate("the processor refuses images of {sizes}: {error}", sizes=sizes, error=error)
            ) from error
        inputs = {name: value for name, value in found.items() if name not in OF_TEXT}
        return tokenizer.text.split(_BETWEEN), found["input_ids"], inputs


def _blanks(count: int, size: Size = BLANK_SIZE) -> list[Image]:
    from PIL import Image

    return [Image.new("RGB", size)] * count


class _Watched:
    """A tokenizer that keeps the text of the last call."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = ""

    def __call__(self, text: Any, **kwargs: Any) -> Any:
        (self.text,) = text
        return self._tokenizer(text, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_tokenizer":
            raise AttributeError(name)
        return getattr(self._tokenizer, name)
