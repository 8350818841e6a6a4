"""What `xtuner chat` and `xtuner serve` load: a model, its tokenizer, and what it sees images with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.chat.settings import ModelSettings
from xtuner.errors import ModelError
from xtuner.families import images_of
from xtuner.generation.pictures import Pictures
from xtuner.generation.vision import LlavaVision, ProcessorVision, Vision
from xtuner.language import translate
from xtuner.log import logger

if TYPE_CHECKING:
    from xtuner.model.vision.image_encoder import LlavaParts


def find_parts(settings: ModelSettings) -> LlavaParts | None:
    """The parts that --llava names; None without it."""
    from xtuner.model.vision.image_encoder import find_llava_parts

    if settings.llava is None:
        return None
    return find_llava_parts(
        settings.model,
        settings.llava,
        settings.visual_encoder,
        settings.visual_select_layer,
        trust_remote_code=settings.trust_remote_code,
    )


def reads_images(settings: ModelSettings) -> bool:
    """Whether the model is of a family that reads images, or has the parts of a LLaVA."""
    from xtuner.model.loading import load_config

    if settings.llava is not None:
        return True
    trusted, encoder = settings.trust_remote_code, settings.visual_encoder
    config = load_config(settings.model, trust_remote_code=trusted, mm_vision_tower=encoder)
    return images_of(config) is not None


def load_model(
    settings: ModelSettings, parts: LlavaParts | None, adapter: str | None
) -> tuple[Any, Any, Pictures | None]:
    """The model with `adapter`, its tokenizer, and the images it may be shown; None where it sees nothing."""
    from xtuner.model.loading import load_for_chat

    model, tokenizer = load_for_chat(
        settings.model,
        adapter=adapter,
        dtype=settings.torch_dtype,
        bits=settings.bits,
        offload_folder=settings.offload_folder,
        trust_remote_code=settings.trust_remote_code,
        mm_vision_tower=settings.visual_encoder if settings.llava is None else None,
    )
    vision = load_vision(model, tokenizer, settings.model, parts)
    return model, tokenizer, None if vision is None else Pictures(vision)


def load_vision(
    model: Any, tokenizer: Any, path: str, parts: LlavaParts | None = None, *, is_needed: bool = False
) -> Vision | None:
    """What `model`, loaded from `path`, sees images with; None where it sees nothing.

    The tokenizer gets the chat template of the processor, with which the model was trained. A processor that
    cannot be used is logged; an error if it `is_needed`.
    """
    from xtuner.image_processor import load_processor
    from xtuner.model.base import base_model
    from xtuner.model.vision.image_encoder import load_image_encoder

    encoder = load_image_encoder(model, tokenizer, path, parts)
    if encoder is not None:
        return LlavaVision(encoder)
    config = base_model(model).config
    if images_of(config) is None:
        return None
    try:
        processor = load_processor(path, getattr(config, "mm_vision_tower", None))
        _add_image_token(tokenizer, processor)
        vision = ProcessorVision(model, tokenizer, processor)
    except ModelError as error:
        if is_needed:
            raise
        logger.warning(translate("%s answers to texts only, without images: %s"), path, error)
        return None
    tokenizer.chat_template = vision.chat_template or tokenizer.chat_template
    return vision


def _add_image_token(tokenizer: Any, processor: Any) -> None:
    """Give `tokenizer` the token of images that the tokenizer of `processor` has behind the same words."""
    token = getattr(processor, "image_token", None)
    own = processor.tokenizer.get_vocab().get(token)
    if own == len(tokenizer) and token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [token]}, False)
