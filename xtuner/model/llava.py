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
from torch import nn

from xtuner import hub
from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.base import base_model, device_of
from xtuner.model.loading import load_config
from xtuner.model.lora import attach_adapter, check_adapter_folder, read_adapter, read_weights
from xtuner.model_folder import check_model_folder, looks_local, read_json

if TYPE_CHECKING:
    from PIL.Image import Image

SELECT_LAYER = -2
_PROJECTOR_FILES = ("model.safetensors", "pytorch_model.bin")
_ENCODERS = ("clip_vision_model", "siglip_vision_model")  # whose images all have the same number of patches


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


def is_whole_llava(path: str | Path, *, trust_remote_code: bool = False) -> bool:
    """Whether `path` is a whole LLaVA model: a vision-language model."""
    return load_config(path, trust_remote_code=trust_remote_code).model_type == "llava"


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
        if file.is_file() and read_json(file).get("model_type") == "llava":
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
    vision = _vision_config(parts.visual_encoder)
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
    count = vision.num_hidden_layers + 1
    if not -count <= parts.select_layer < count:
        raise ConfigError(
            translate(
                "--visual-select-layer is {select_layer}: {visual_encoder} has the layers {first} to {last}",
                select_layer=parts.select_layer,
                visual_encoder=parts.visual_encoder,
                first=-count,
                last=count - 1,
            )
        )


def _vision_config(path: str) -> Any:
    check_model_folder(path)
    config = load_config(path)
    config = getattr(config, "vision_config", config) if config.model_type == "clip" else config
    if config.model_type != "clip_vision_model":
        raise ModelError(
            translate(
                "--visual-encoder {path} is not a CLIP: its family is {model_type!r}",
                path=path,
                model_type=config.model_type,
            )
        )
    return config


def load_image_encoder(
    model: Any, tokenizer: Any, path: str | Path, parts: LlavaParts | None = None
) -> ImageEncoder | None:
    """The image encoder for `model`, loaded from `path`: its own, or `parts`; None if it has none."""
    if parts is not None:
        return _encoder_of_parts(model, parts)
    if getattr(model.config, "model_type", None) == "llava":
        return _own_encoder(model, tokenizer, path)
    return None


def _own_encoder(model: Any, tokenizer: Any, path: str | Path) -> ImageEncoder:
    base = base_model(model)
    family = base.config.vision_config.model_type
    if family not in _ENCODERS:
        raise ModelError(
            translate(
                "the vision encoder of {path} is of the family {family!r}; images can be read with "
                "{encoders}",
                path=path,
                family=family,
                encoders=translate(" or ").join(_ENCODERS),
            )
        )

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
    return ImageEncoder(_load_processor(path), encode, image_token=token, source=str(path))


def _encoder_of_parts(model: Any, parts: LlavaParts) -> ImageEncoder:
    device, dtype = _place_of(model)
    vision = _load_vision(parts).to(device, dtype).eval()
    projector = load_projector(parts.projector).to(device, dtype).eval()
    processor = _load_processor(parts.visual_encoder)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen = vision(pixels.to(device, dtype), output_hidden_states=True)
        return projector(seen.hidden_states[parts.select_layer][:, 1:])

    mean = getattr(processor, "image_mean", None) or (0.0, 0.0, 0.0)
    background = tuple(int(value * 255) for value in mean)
    source = f"{parts.projector.parent} and {parts.visual_encoder}"
    return ImageEncoder(processor, encode, background=background, source=source)


def _place_of(model: Any) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of `model`: those of its embedding, which is never quantised."""
    # Offloaded weights are on "meta" until their layer runs.
    device = device_of(model)
    return device, model.get_input_embeddings().weight.dtype


def _load_vision(parts: LlavaParts) -> nn.Module:
    from transformers import CLIPVisionModel

    logger.info(translate("Load visual_encoder from %s"), parts.visual_encoder)
    try:
        loaded: Any = CLIPVisionModel.from_pretrained(parts.visual_encoder, output_loading_info=True)
    except Exception as error:  # each of transformers, safetensors and torch has its own errors
        raise ModelError(
            translate(
                "the visual encoder {visual_encoder} cannot be loaded: {error}",
                visual_encoder=parts.visual_encoder,
                error=error,
            )
        ) from error
    vision, report = loaded
    if report["missing_keys"]:
        raise ModelError(
            translate(
                "the visual encoder {visual_encoder} has no {name}",
                visual_encoder=parts.visual_encoder,
                name=sorted(report["missing_keys"])[0],
            )
        )
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


def make_projector(
    visual_size: int, llm_size: int, depth: int = 2, act: str = "gelu", bias: bool = True
) -> nn.Module:
    """`depth` linear layers with `act` between them: from features of CLIP to embeddings of an LLM."""
    from transformers.activations import ACT2FN

    layers: list[nn.Module] = [nn.Linear(visual_size, llm_size, bias=bias)]
    for _ in range(1, depth):
        layers += [ACT2FN[act], nn.Linear(llm_size, llm_size, bias=bias)]
    return nn.Sequential(*layers)


def load_projector(folder: Path) -> nn.Module:
    """The projector saved in `folder`."""
    logger.info(translate("Load projector from %s"), folder)
    config = read_json(folder / "config.json")
    try:
        projector = make_projector(
            config["visual_hidden_size"],
            config["llm_hidden_size"],
            config.get("depth", 2),
            config.get("hidden_act", "gelu"),
            config.get("bias", True),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(
            translate(
                "{file} does not describe a projector: {error}", error=error, file=folder / "config.json"
            )
        ) from error
    files = [folder / name for name in _PROJECTOR_FILES if (folder / name).is_file()]
    if not files:
        raise ModelError(
            translate(
                "the projector {folder} has no weights: none of {names}",
                folder=folder,
                names=", ".join(_PROJECTOR_FILES),
            )
        )
    weights = {name.removeprefix("model."): value for name, value in read_weights(files[0]).items()}
    wanted = projector.state_dict()
    for name in sorted({*wanted, *weights}):
        shapes = [tuple(w[name].shape) if name in w else translate("missing") for w in (weights, wanted)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                translate(
                    "{file} and the config beside it differ: model.{name} is {there}, not {here}",
                    name=name,
                    file=files[0],
                    there=shapes[0],
                    here=shapes[1],
                )
            )
    projector.load_state_dict(weights)
    return projector


def _load_processor(path: str | Path) -> Any:
    """The image processor of a folder, always with pillow, as in training."""
    from transformers import AutoImageProcessor

    if looks_local(path) or Path(path).is_dir():
        names = ("preprocessor_config.json", "processor_config.json")
        if not any((Path(path) / name).is_file() for name in names):
            raise ModelError(
                translate(
                    "{path} has no {name}, which says how images are prepared", path=path, name=names[0]
                )
            )
    try:
        return AutoImageProcessor.from_pretrained(str(path), backend="pil")
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(
            translate("the image processor of {path} cannot be loaded: {error}", path=path, error=error)
        ) from error
