"""The image encoder of a LLaVA model: from an image to rows among the embeddings of the text.

    image ──processor──> pixels [3, 336, 336] ──CLIP, layer -2──> [577, 1024]
                         ──without the class──> [576, 1024] ──projector──> [576, 4096]

Two layouts on disk:

    LlavaForConditionalGeneration   one folder of transformers: config, weights, preprocessor_config.json
    --llava DIR                     DIR/projector, and if they were trained DIR/llm_adapter,
                                    DIR/visual_encoder or DIR/visual_encoder_adapter; an LLM and a CLIP
                                    are in other folders
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xtuner import hub
from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.image_processor import background_of, load_image_processor
from xtuner.language import translate
from xtuner.llava_folder import is_official_folder
from xtuner.log import logger
from xtuner.model.base import base_model, device_of
from xtuner.model.loading import load_config
from xtuner.model.lora import attach_adapter, check_adapter_folder, read_adapter
from xtuner.model.vision.encoder import (
    ENCODERS,
    SELECT_LAYER,
    check_layer,
    load_visual_encoder,
    patch_features,
    vision_config,
)
from xtuner.model.vision.projector import load_projector
from xtuner.model_folder import check_model_folder, looks_local, read_json

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class LlavaParts:
    """The folders of the parts of a LLaVA model, besides its LLM."""

    projector: Path
    visual_encoder: str
    select_layer: int = SELECT_LAYER
    llm_adapter: str | None = None
    visual_encoder_adapter: str | None = None


class ImageEncoder:
    """Turns images into `length` rows of the size of an LLM's embeddings.

    `background`: the colour to pad an image to a square, or None if the processor crops.
    `image_token`: the tokenizer's token for an image, or None.
    """

    def __init__(
        self,
        processor: Any,
        encode: Callable[[torch.Tensor], torch.Tensor],
        *,
        background: tuple[int, ...] | None = None,
        image_token: str | None = None,
        source: str = "",
    ) -> None:
        from PIL import Image

        self.processor = processor
        self._encode = encode
        self.background = background
        self.image_token = image_token
        try:
            self.length = len(self.encode(self.pixels(Image.new("RGB", (64, 64)))))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(
                translate(
                    "the parts of {source} do not fit each other: an image cannot be encoded: {error}",
                    source=source,
                    error=error,
                )
            ) from error

    def pixels(self, image: Image) -> torch.Tensor:
        """The input [3, height, width] of the encoder."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The features [length, hidden] of `pixels`."""
        return self._encode(pixels[None])[0]


def find_llava_parts(
    llm: str | Path,
    llava: str | Path,
    visual_encoder: str | Path | None = None,
    select_layer: int | None = None,
    *,
    trust_remote_code: bool = False,
) -> LlavaParts:
    """The parts in the folder or hub name `llava`, checked by their configs against each other and `llm`."""
    folder = _llava_folder(llava)
    projector = folder / "projector"
    if not (projector / "config.json").is_file():
        file = folder / "config.json"
        is_whole = file.is_file() and read_json(file).get("model_type") == "llava"
        if is_whole or is_official_folder(folder):
            raise ModelError(
                translate(
                    "--llava {llava}: this is a whole LLaVA model: xtuner chat {llava} --image ...",
                    llava=llava,
                )
            )
        raise ModelError(
            translate(
                "--llava {llava}: this is not a LLaVA folder: it has no projector/config.json", llava=llava
            )
        )
    if (folder / "config.json").is_file() and folder.resolve() != Path(llm).expanduser().resolve():
        logger.warning(
            translate("%s has a language model of its own, and %s is used with its projector"), llava, llm
        )
    own = folder / "visual_encoder"
    if own.is_dir():
        if visual_encoder is not None and Path(visual_encoder).resolve() != own.resolve():
            logger.warning(
                translate("--visual-encoder %s is not used: %s was trained with %s"),
                visual_encoder,
                llava,
                own,
            )
        visual_encoder = own
    if visual_encoder is None:
        raise ConfigError(
            translate(
                "--llava {llava} has no visual_encoder folder: give its CLIP with --visual-encoder",
                llava=llava,
            )
        )
    adapters = {
        name: str(folder / name)
        for name in ("llm_adapter", "visual_encoder_adapter")
        if (folder / name).is_dir()
    }
    for adapter in adapters.values():
        check_adapter_folder(adapter)
    layer = SELECT_LAYER if select_layer is None else select_layer
    parts = LlavaParts(projector, str(visual_encoder), layer, **adapters)
    check_model_folder(llm)
    config = load_config(llm, trust_remote_code=trust_remote_code)
    _check_sizes(str(llm), config.get_text_config(), parts)
    return parts


def _llava_folder(name: str | Path) -> Path:
    """The folder `name`, or the local copy of the hub repository `name`."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if looks_local(name):
        raise NotFoundError(translate("There is no LLaVA folder {name}", name=name))
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), local_files_only=not hub.is_reachable()))
    except (OSError, ValueError) as error:  # includes errors of the hub
        raise NotFoundError(
            translate("There is no LLaVA folder {name}, neither here nor on the hub", name=name)
        ) from error


def _check_sizes(llm: str, llm_config: Any, parts: LlavaParts) -> None:
    vision = vision_config(parts.visual_encoder, "--visual-encoder")
    projector = read_json(parts.projector / "config.json")
    sizes = [
        ("llm_hidden_size", llm, llm_config.hidden_size),
        ("visual_hidden_size", parts.visual_encoder, vision.hidden_size),
    ]
    for name, other, have in sizes:
        if projector.get(name) != have:
            raise ModelError(
                translate(
                    "the projector {projector} was made for another model than {other}: its {setting} "
                    "is {value}, and {other} has {have}",
                    projector=parts.projector,
                    other=other,
                    have=have,
                    value=projector.get(name),
                    setting=name,
                )
            )
    check_layer(parts.select_layer, vision, parts.visual_encoder, "--visual-select-layer")


def load_image_encoder(
    model: Any, tokenizer: Any, path: str | Path, parts: LlavaParts | None = None
) -> ImageEncoder | None:
    """The image encoder for `model`, loaded from `path`: `parts`, or that of a LLaVA; None if it has none.

    A LLaVA with another encoder (Pixtral) has none either: its processor writes its images.
    """
    if parts is not None:
        return _encoder_of_parts(model, parts)
    config = base_model(model).config
    if config.model_type == "llava" and config.vision_config.model_type in ENCODERS:
        return _own_encoder(model, tokenizer, path)
    return None


def _own_encoder(model: Any, tokenizer: Any, path: str | Path) -> ImageEncoder:
    base = base_model(model)
    device, dtype = _place_of(base)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen = base.get_image_features(pixel_values=pixels.to(device, dtype), return_dict=True)
        return torch.stack(list(seen.pooler_output))

    token = str(tokenizer.convert_ids_to_tokens(base.config.image_token_id))
    if tokenizer.encode(token, add_special_tokens=False) != [base.config.image_token_id]:
        raise ModelError(
            translate(
                "the tokenizer of {path} has no image token: {token!r} is not a token", path=path, token=token
            )
        )
    return ImageEncoder(load_image_processor(path), encode, image_token=token, source=str(path))


def _encoder_of_parts(model: Any, parts: LlavaParts) -> ImageEncoder:
    device, dtype = _place_of(model)
    vision = _load_vision(parts).to(device, dtype).eval()
    projector = load_projector(parts.projector).to(device, dtype).eval()
    processor = load_image_processor(parts.visual_encoder)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return projector(patch_features(vision, pixels.to(device, dtype), parts.select_layer))

    background = background_of(processor)
    source = f"{parts.projector.parent} and {parts.visual_encoder}"
    return ImageEncoder(processor, encode, background=background, source=source)


def _place_of(model: Any) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of `model`: those of its embedding, which is never quantised."""
    # Offloaded weights are on "meta" until their layer runs.
    device = device_of(model)
    return device, model.get_input_embeddings().weight.dtype


def _load_vision(parts: LlavaParts) -> Any:
    logger.info(translate("Load visual_encoder from %s"), parts.visual_encoder)
    vision = load_visual_encoder({"pretrained_model_name_or_path": parts.visual_encoder})
    if parts.visual_encoder_adapter is None:
        return vision
    weights = read_adapter(Path(parts.visual_encoder_adapter))
    # Older versions of transformers have another module around the encoder.
    renamed = {
        name.replace("base_model.model.vision_model.", "base_model.model."): w for name, w in weights.items()
    }
    vision = attach_adapter(vision, parts.visual_encoder_adapter, weights=renamed)
    logger.info(translate("Load visual_encoder adapter from %s"), parts.visual_encoder_adapter)
    return vision
