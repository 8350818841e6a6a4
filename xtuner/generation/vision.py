"""How a model sees images: the same few functions for LLaVA and for families with a processor.

image ──read──> tensors, and the text of its tokens ──encode──> rows among the embeddings of the text

LlavaVision       an encoder and a projector: every image has the same number of rows
ProcessorVision   the processor and the model of a family of transformers (Qwen2.5-VL, Gemma 3, ...)
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xtuner.dataset.encoding.image_text import content_parts
from xtuner.dataset.images.processed import BLANK_SIZE, ProcessedImages
from xtuner.dataset.images.shape import bounded_for, expand_to_square
from xtuner.dataset.map_fns.images import IMAGE_MARK
from xtuner.errors import DataError, ModelError
from xtuner.families import family_of, images_of
from xtuner.language import translate
from xtuner.model.base import base_model, device_of
from xtuner.model.vision.positions import image_positions

if TYPE_CHECKING:
    from PIL.Image import Image

    from xtuner.model.vision.image_encoder import ImageEncoder


@dataclass(frozen=True)
class ReadImage:
    """An image as its encoder takes it, the number of its rows, and the text of its tokens.

    `indicators`: for rows that are the model's own, not features of the image, the number of the embedding.
    """

    tensors: Mapping[str, Tensor]
    length: int
    text: str = ""
    indicators: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """The rows [length, hidden] of an image, and rows that are added after the first layers (DeepStack)."""

    rows: Tensor
    deep: Sequence[Tensor] = ()


class Vision(ABC):
    """What a model reads images with.

    `placeholder`: what a chat template writes for an image. `tokens`: those of its rows, none if images are
    tokens of no tokenizer. `attends_both_ways`: the rows of an image see each other.
    `depends_on_others`: an image is read in another way if the dialogue has several. `numbers_images`: their
    texts have numbers.
    """

    placeholder: str | None = None
    tokens: Sequence[str] = ()
    attends_both_ways = False
    depends_on_others = False
    numbers_images = False

    @abstractmethod
    def read(self, image: Image, *, is_alone: bool = True) -> ReadImage:
        """`image`, the only one of its dialogue or one of several; DataError if it cannot be read."""

    @abstractmethod
    def encode(self, read: ReadImage) -> Features:
        """The features of an image."""

    @abstractmethod
    def in_text(self, text: str, mark: re.Pattern[str]) -> str:
        """`text` with what belongs around images, whose places are marked, in a text without parts."""

    def numbered(self, text: str, index: int) -> str:
        """The `text` of an image (`ReadImage.text`) after `index` others in its dialogue."""
        return text

    def positions(self, ids: Tensor, is_image: Tensor, images: Sequence[ReadImage]) -> Tensor | None:
        """The positions [3, tokens] of a prompt with `images`, or None if they are counted as usual.

        `ids`: those of images are below zero.
        """
        return None

    def of_tokens(self, ids: Tensor, is_image: Tensor) -> Mapping[str, Tensor]:
        """What the model makes of `ids` [1, tokens] besides their embeddings."""
        return {}

    def stretched(self, image: Image) -> Image:
        """`image` in the shape of the encoder's, if that is fixed."""
        return image


class LlavaVision(Vision):
    """Image encoder and projector of a LLaVA."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self.placeholder = encoder.image_token
        self.tokens = [] if encoder.image_token is None else [encoder.image_token]

    def read(self, image: Image, *, is_alone: bool = True) -> ReadImage:
        if self._encoder.background is not None:
            image = expand_to_square(image, self._encoder.background)
        image = bounded_for(image, self._encoder.processor, translate("the image"))
        length = self._encoder.length
        pixels = self._encoder.pixels(image)
        return ReadImage({"pixel_values": pixels}, length, "".join(self.tokens) * length)

    def encode(self, read: ReadImage) -> Features:
        return Features(self._encoder.encode(read.tensors["pixel_values"]))

    def in_text(self, text: str, mark: re.Pattern[str]) -> str:
        # Images precede the text, as in LLaVA's training.
        return "".join(f"{found}\n" for found in mark.findall(text)) + mark.sub("", text)

    def stretched(self, image: Image) -> Image:
        height, width = self._encoder.pixels(image).shape[-2:]
        return image.resize((width, height))


class ProcessorVision(Vision):
    """The vision part of `model`, with the processor of its family."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        """ModelError if the processor does not fit the model."""
        self._base = base_model(model)
        family = images_of(self._base.config)
        assert family is not None
        self._mrope = family.mrope
        # A family with a recurrent state does not pack either.
        self.attends_both_ways = not family.packs and family_of(self._base.config).packs is not False
        # Of the whole model, or of its part without the head (DeepSeek-VL).
        self._encoder = next(m for m in self._base.modules() if hasattr(m, "get_image_features"))
        self._projector = getattr(self._encoder, family.projector) if family.projector else None
        try:
            self._images = ProcessedImages(processor)
            self.placeholder = self._images.token
            self._own = [self._images.token_id, *_indicators(self._base.config)]
            self.tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(self._own)]
            self._before, self._after = _around(self._images.tokenizer, self._images.token)
            alone, several = (self._images.texts([BLANK_SIZE] * count)[0] for count in (1, 2))
            self.depends_on_others = alone != several
            self.numbers_images = self._images.numbers is not None
        except Exception as error:  # of a processor that was made for another family
            what = "the processor of the model cannot read an image: {kind}: {error}"
            raise ModelError(translate(what, kind=type(error).__name__, error=error)) from error

    def read(self, image: Image, *, is_alone: bool = True) -> ReadImage:
        text, length, tensors = self._images.one(image, is_alone)
        if len(self._own) == 1:
            return ReadImage(tensors, length, text)
        ids = self._images.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        rows = [self._own.index(one) for one in ids if one in self._own]
        return ReadImage(tensors, len(rows), text, {row: n - 1 for row, n in enumerate(rows) if n})

    @property
    def chat_template(self) -> str | None:
        """The chat template of the processor, or of its tokenizer."""
        return self._images.tokenizer.chat_template

    @torch.no_grad()
    def encode(self, read: ReadImage) -> Features:
        dtype = self._base.get_input_embeddings().weight.dtype
        device = device_of(self._base)
        given = {
            name: value.to(device, dtype if value.dtype.is_floating_point else None)
            for name, value in read.tensors.items()
        }
        found = self._encoder.get_image_features(**given, return_dict=True)
        if self._projector is None:
            rows = _rows(found.pooler_output)
        else:
            rows = self._projector(_rows(found.last_hidden_state))
        count = read.length - len(read.indicators)
        # Of an image among others the tensors hold a second copy.
        if len(rows) not in (count, 2 * count):
            what = "the image has {count} tokens and {rows} rows of features"
            raise DataError(translate(what, count=count, rows=len(rows)))
        deep = [_rows(level)[:count] for level in getattr(found, "deepstack_features", None) or ()]
        rows = rows[:count]
        if read.indicators:
            rows = _with_indicators(rows, read.indicators, found.visual_indicator_features)
        return Features(rows, deep)

    def in_text(self, text: str, mark: re.Pattern[str]) -> str:
        return mark.sub(lambda found: f"{self._before}{found[0]}{self._after}", text)

    def numbered(self, text: str, index: int) -> str:
        return self._images.numbered(text, index)

    def positions(self, ids: Tensor, is_image: Tensor, images: Sequence[ReadImage]) -> Tensor | None:
        if not self._mrope:
            return None
        ids = ids.masked_fill(is_image, self._images.token_id)
        tensors = [image.tensors for image in images]
        return image_positions(self._base, ids[None], is_image[None], tensors)[:, 0]

    def of_tokens(self, ids: Tensor, is_image: Tensor) -> Mapping[str, Tensor]:
        config = self._base.config.get_text_config()
        if not getattr(config, "hidden_size_per_layer_input", 0):
            return {}
        # Gemma 4 gives each layer an embedding of the token, and that of padding for an image.
        ids = ids.masked_fill(is_image, config.pad_token_id)
        return {"per_layer_inputs": self._base.get_decoder().get_per_layer_inputs(ids)}


def _rows(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Features by images or tiles, as rows one after the other."""
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _indicators(config: Any) -> Sequence[int]:
    """The tokens around and between the parts of images that have embeddings of the encoder (Ovis 2)."""
    return list(getattr(config, "visual_indicator_token_ids", None) or ())


def _with_indicators(rows: Tensor, indicators: Mapping[int, int], embeddings: Tensor) -> Tensor:
    """The `rows` of features between the `embeddings` of `indicators`, by the row where each stands."""
    features = iter(rows)
    length = len(rows) + len(indicators)
    return torch.stack(
        [embeddings[indicators[n]] if n in indicators else next(features) for n in range(length)]
    )


def _around(tokenizer: Any, placeholder: str) -> tuple[str, str]:
    """What the chat template of `tokenizer` writes before and after the placeholder of an image."""
    if not tokenizer.chat_template:
        return "", "\n"  # as InternVL's own code, whose folders have no chat template
    parts = content_parts(f"Qzx0z{IMAGE_MARK}Qzx1z")
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    except Exception:  # templates may raise anything
        return "", ""
    found = re.search(f"Qzx0z(.*?){re.escape(placeholder)}(.*?)Qzx1z", text, re.DOTALL)
    return (found[1], found[2]) if found else ("", "")
