"""What `xtuner chat` and `xtuner serve` load: a model, its tokenizer, and the vision part of a LLaVA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.chat.settings import ModelSettings
from xtuner.generation.pictures import Pictures

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


def load_model(
    settings: ModelSettings, parts: LlavaParts | None, adapter: str | None
) -> tuple[Any, Any, Pictures | None]:
    """The model with `adapter`, its tokenizer, and the images it may be shown; None where it sees nothing."""
    from xtuner.model.loading import load_for_chat
    from xtuner.model.vision.image_encoder import load_image_encoder

    model, tokenizer = load_for_chat(
        settings.model,
        adapter=adapter,
        dtype=settings.torch_dtype,
        bits=settings.bits,
        offload_folder=settings.offload_folder,
        trust_remote_code=settings.trust_remote_code,
    )
    encoder = load_image_encoder(model, tokenizer, settings.model, parts)
    return model, tokenizer, None if encoder is None else Pictures(encoder)
