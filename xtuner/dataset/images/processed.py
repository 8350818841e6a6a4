"""Images by the processor of a vision-language model: the text of their tokens, and their tensors.

    640 x 480    "<|image_pad|>" 391 times                       from the size alone, before a model exists
    an image     {"pixel_values": [1564, 1176], "image_grid_thw": [1, 3]}

The family's processor writes both. Its tokenizer is watched for the text, which has the rows and columns of
tiles too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from xtuner.dataset.images.shape import bounded_for
from xtuner.errors import DataError
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]

_BETWEEN = "\ufdd2"  # the texts of two images
_OF_TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


class ProcessedImages:
    """Images of a conversation as the model of `processor` takes them."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.token: str = processor.image_token
        tokenizer = processor.tokenizer
        # Gemma 3 writes other tokens than its placeholder.
        self.token_id: int = getattr(tokenizer, "image_token_id", None) or processor.image_token_id
        self._texts: dict[tuple[Size, bool], str] = {}

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, with the processor's chat template."""
        tokenizer = copy.copy(self.processor.tokenizer)
        template = getattr(self.processor, "chat_template", None) or tokenizer.chat_template
        tokenizer.chat_template = template.get("default") if isinstance(template, dict) else template
        return tokenizer

    def texts(self, sizes: Sequence[Size]) -> list[str]:
        """The text of the tokens of each image of a conversation, by their widths and heights."""
        return [self._text(size, len(sizes) == 1) for size in sizes]

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
        from PIL import Image

        if (size, is_alone) not in self._texts:
            blank = [Image.new("RGB", size)] * (1 if is_alone else 2)
            self._texts[size, is_alone] = self._process(blank)[0][0]
        return self._texts[size, is_alone]

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
        inputs = {name: value for name, value in found.items() if name not in _OF_TEXT}
        return tokenizer.text.split(_BETWEEN), found["input_ids"], inputs


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
