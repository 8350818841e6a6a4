"""LLaVA: a language model that reads images through an image encoder and a projector.

    input_ids   1 3148 -200 -200 -200 -200 13 5618        -200 for each row of an image
    images      pixels [k, 3, 336, 336] ──visual_encoder──> [k, 576, 1024] ──projector──> [k, 576, 4096]
    the model   embeddings of the words, and rows of the images in the places of -200

    stage 1     freeze_llm, freeze_visual_encoder: the projector is trained alone
    stage 2     pretrained_pth = its checkpoint; the language model (all of it, or llm_lora) and, if wanted,
                the encoder (all of it, or visual_encoder_lora) are trained too

The encoder runs once for all images of a batch.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtuner import dist
from xtuner.config import build
from xtuner.errors import CheckpointError, ConfigError
from xtuner.image_processor import background_of, load_image_processor, num_patches
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model.base import base_model
from xtuner.model.lora import adapter_config, apply_lora
from xtuner.model.mapped import wanted_dtype
from xtuner.model.packed import to_device
from xtuner.model.passes import Pass
from xtuner.model.recompute import enable_recompute
from xtuner.model.reference import hash_of
from xtuner.model.sft import SupervisedFinetune
from xtuner.model.vision.blank import embeddings_changed
from xtuner.model.vision.encoder import (
    SELECT_LAYER,
    check_layer,
    cut_layers,
    layers_behind,
    load_visual_encoder,
    patch_features,
)
from xtuner.model.vision.features import StoredFeatures
from xtuner.model.vision.image_encoder import ImageEncoder
from xtuner.model.vision.projector import Projector

# Of `mm_projector.bin` and `non_lora_trainables.bin`.
_OF_PACKAGE = re.compile(r"^(base_model\.model\.)?(model\.)?mm_projector\.")
_SINGLE = re.compile(r"^projector\.model\.(weight|bias)$")


class LLaVAModel(SupervisedFinetune):
    """A language model, an image encoder and a projector; each is frozen, trained, or has an adapter."""

    unbuilt = frozenset({"llm", "visual_encoder"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        visual_encoder: Mapping[str, Any] | nn.Module,
        freeze_llm: bool = False,
        freeze_visual_encoder: bool = False,
        visual_select_layer: int = SELECT_LAYER,
        pretrained_pth: str | None = None,
        projector_depth: int = 2,
        llm_lora: Any = None,
        visual_encoder_lora: Any = None,
        use_activation_checkpointing: bool | str | None = None,
        max_position_embeddings: int | None = None,
        tokenizer: Any = None,
        image_features: Mapping[str, Any] | None = None,
    ):
        """`image_features`: `dict(folder=..., max_gb=100)` keeps what a frozen encoder makes of images.

        The encoder then runs once for each image, before training, in this run and all later ones.
        """
        super().__init__(
            llm,
            lora=llm_lora,
            use_activation_checkpointing=use_activation_checkpointing,
            tokenizer=tokenizer,
            max_position_embeddings=max_position_embeddings,
            frozen=freeze_llm,
        )
        self._freezes_llm = freeze_llm
        if self.uses_adapter:
            self.llm_folder = "llm_adapter/"
        elif freeze_llm:
            self.llm_folder = None
        self.select_layer = visual_select_layer
        self._trains_encoder = not freeze_visual_encoder and visual_encoder_lora is None
        self.visual_encoder = self._make_encoder(visual_encoder, visual_encoder_lora)
        sizes = base_model(self.visual_encoder).config.hidden_size, _hidden_size(self.llm)
        self.starts_from = pretrained_pth
        self.projector = Projector(*sizes, depth=projector_depth)
        self.image_features = StoredFeatures.of_config(image_features)
        if image_features and any(p.requires_grad for p in self.visual_encoder.parameters()):
            what = (
                "model.image_features: the encoder is trained, so its features change: set "
                "freeze_visual_encoder = True without visual_encoder_lora, or remove image_features"
            )
            raise ConfigError(translate(what))
        # Of the batch that runs: the rows of its images, and the number of each token's row, -1 for words.
        self._seen: tuple[Tensor, np.ndarray] | None = None
        logger.info(translate("LLaVA trains {parts}", parts=self._describe()))

    def _make_encoder(self, cfg: Any, lora: Any) -> Any:
        if isinstance(cfg, nn.Module):
            vision: Any = cfg
        else:
            # What is trained as a whole is held in fp32, as the projector is.
            vision = load_visual_encoder(cfg, None if self._trains_encoder else _plain_dtype(self.llm))
        name = getattr(vision.config, "_name_or_path", "")
        check_layer(self.select_layer, vision.config, name, "model.visual_select_layer")
        behind = layers_behind(vision, self.select_layer)
        if lora is not None:
            lora = _without(lora, behind)
            vision = apply_lora(vision, lora, task_type=None)
        elif self._trains_encoder:
            for weight, parameter in vision.named_parameters():
                parameter.requires_grad_(not weight.startswith(tuple(behind)))
        else:
            self.select_layer = cut_layers(vision.requires_grad_(False), self.select_layer)
        if any(p.requires_grad for p in vision.parameters()):
            enable_recompute(vision, "none" if self.recompute == "none" else "full")
        return vision

    def _describe(self) -> str:
        counts = {
            name: sum(p.numel() for p in part.parameters() if p.requires_grad)
            for name, part in self.parts().items()
        }
        return ", ".join(f"{name} ({count:,})" for name, count in counts.items() if count)

    def start_from(self, state: Mapping[str, Any], path: str) -> None:
        """Take the weights of each part that an earlier stage trained."""
        state = _renamed(state)
        if not any(name.startswith("projector.") for name in state):
            what = "model.pretrained_pth = {path!r} has no projector: it is not the checkpoint of a LLaVA"
            raise CheckpointError(translate(what, path=path))
        own = nn.Module.state_dict(self)
        taken = {name: value for name, value in state.items() if name in own}
        self.check_fits(taken, strict=False)
        nn.Module.load_state_dict(self, taken, strict=False)
        logger.info(translate("Load pretrained weight from {path}", path=path))
        if unused := sorted(state.keys() - taken.keys()):
            what = "model.pretrained_pth: {count} of its weights belong to no part of this model, as {name}"
            say_once(what, count=len(unused), name=unused[0])

    # --- a batch -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def seeing(self, data: Mapping[str, Any]) -> Iterator[None]:
        """A context in which passes have the rows of the images of the batch."""
        images = data.get("pixel_values") or []
        rows, is_image = self._encode(images), _is_image(data)
        count = int(is_image.sum())
        if count != (len(rows) if images else 0):
            what = (
                "the batch has {count} tokens for images, and its images have {rows} rows: the image "
                "processor of the data and model.visual_encoder do not belong together"
            )
            raise ConfigError(translate(what, count=count, rows=len(rows) if images else 0))
        self._seen = rows, np.where(is_image, np.cumsum(is_image) - 1, -1)
        try:
            yield
        finally:
            self._seen = None

    def _encode(self, images: Sequence[Tensor]) -> Tensor:
        """The rows `[sum of rows, hidden]` of all images of a batch, each `[..., 3, height, width]`.

        Stored features are `[images, rows, width]`.

        Without images there are none; if there are several processes, those of a blank image, so that all of
        them have the same graph.
        """
        config = base_model(self.visual_encoder).config
        if any(image.dim() == 3 for image in images):  # stored features
            found = [
                image.to(self.device, non_blocking=True)
                if image.dim() == 3
                else self.features(image.flatten(0, -4))
                for image in images
            ]
            features = torch.cat(found)
        elif images:
            features = self.features(torch.cat([image.flatten(0, -4) for image in images]))
        elif dist.world_size() > 1:
            features = self.features(torch.zeros(1, 3, config.image_size, config.image_size))
        else:
            return torch.zeros(0, _hidden_size(self.llm), device=self.device)
        return self.projector(features.to(self.projector.dtype)).flatten(0, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """What the encoder makes `[k, rows, width]` of `pixels` `[k, 3, height, width]`."""
        pixels = pixels.to(self.device, _plain_dtype(self.visual_encoder), non_blocking=True)
        learns = self.training and any(p.requires_grad for p in self.visual_encoder.parameters())
        with contextlib.nullcontext() if learns else torch.no_grad():
            return patch_features(self.visual_encoder, pixels, self.select_layer)

    def features_key(self) -> str:
        """A hash of all that `features` depends on besides the pixels and the precision."""
        vision = base_model(self.visual_encoder)
        computed = (type(vision).__name__, vision.config._attn_implementation, self.device.type)
        return repr((hash_of(vision), self.select_layer, computed, torch.__version__))

    def features_shape(self) -> tuple[int, int]:
        """Rows and width of the features of an image."""
        config = base_model(self.visual_encoder).config
        return num_patches(config.image_size, config.patch_size), config.hidden_size

    def run(self, p: Pass, model: Any = None, columns: np.ndarray | None = None) -> Any:
        assert self._seen is not None
        all_rows, row_of_token = self._seen
        row_of = np.where(p.index >= 0, row_of_token[p.index], -1).ravel()
        tokens = np.flatnonzero(row_of >= 0)
        if not len(all_rows):
            return super().run(p, model, columns)
        rows = all_rows[to_device(row_of[tokens], self.device)]
        # The rows that this pass does not take have a gradient of zero, but they have one: so all processes
        # have the same graph, and the collectives of its backward the same order.
        zero = all_rows.sum() * 0

        def put(embeddings: Tensor) -> Tensor:
            flat = embeddings.flatten(0, 1).index_copy(0, at, rows.to(embeddings.dtype))
            return flat.view_as(embeddings) + zero.to(embeddings.dtype)

        at = to_device(tokens, self.device)
        inputs = {**p.inputs, "input_ids": p.inputs["input_ids"].clamp(min=0)}
        with embeddings_changed(self.llm, put):
            return super().run(replace(p, inputs=inputs), model, columns)

    def image_encoder(self, processor: Any) -> ImageEncoder:
        def encode(pixels: Tensor) -> Tensor:
            parts = (self.visual_encoder, self.projector)
            was_training = [part.training for part in parts]
            try:
                for part in parts:
                    part.eval()
                return self._encode([pixels]).unflatten(0, (len(pixels), -1))
            finally:
                for part, before in zip(parts, was_training, strict=True):
                    part.train(before)

        return ImageEncoder(processor, encode, background=background_of(processor), source="model")

    # --- its weights -------------------------------------------------------------------------------------

    def parts(self) -> Mapping[str, nn.Module]:
        return {"llm": self.llm, "visual_encoder": self.visual_encoder, "projector": self.projector}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained weights, and all of an encoder that is trained without an adapter."""
        state = nn.Module.state_dict(self, *args, **kwargs)
        prefix = kwargs.get("prefix", "")
        trained = {prefix + name for name, p in self.named_parameters() if p.requires_grad}
        whole = tuple(f"{prefix}{name}." for name in self._whole_parts())
        for name in [n for n in state if n.startswith(prefix) and n not in trained]:
            if not name.startswith(whole):
                del state[name]
        return state

    def extra_files(self) -> Mapping[str, str]:
        files = {"projector/config.json": self.projector.config_text}
        vision = base_model(self.visual_encoder)
        if self.visual_encoder is not vision:
            files["visual_encoder_adapter/adapter_config.json"] = adapter_config(self.visual_encoder)
        elif self._trains_encoder:
            files["visual_encoder/config.json"] = vision.config.to_json_string()
            if path := getattr(vision.config, "_name_or_path", ""):
                files["visual_encoder/preprocessor_config.json"] = load_image_processor(path).to_json_string()
        return files

    def _whole_parts(self) -> list[str]:
        parts = ["visual_encoder"] if self._trains_encoder else []
        return parts if self.uses_adapter or self._freezes_llm else ["llm", *parts]


def _is_image(data: Mapping[str, Any]) -> np.ndarray:
    """Which tokens of the flat batch are those of images."""
    if "is_image" in data:
        return data["is_image"]
    ids, mask = data["input_ids"], data.get("attention_mask")
    return (ids.flatten() if mask is None else ids[mask.bool()]).cpu().numpy() < 0


def _plain_dtype(model: Any) -> torch.dtype:
    """The type of the weights that are not quantised, as of an embedding."""
    return wanted_dtype(next(p for p in model.parameters() if p.dtype.is_floating_point))


def _hidden_size(llm: Any) -> int:
    return llm.get_input_embeddings().weight.shape[-1]


def _without(lora: Any, prefixes: Sequence[str]) -> Any:
    """The config of an adapter, for the layers that are used only."""
    cfg = copy.deepcopy(build(lora) if isinstance(lora, Mapping) else lora)
    if cfg.exclude_modules is None:
        cfg.exclude_modules = "|".join(rf"(.*\.)?{re.escape(prefix)}.*" for prefix in prefixes)
    return cfg


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of older versions of transformers, and of the package `llava`, by their names here.

    visual_encoder.vision_model.post_layernorm.bias    visual_encoder.post_layernorm.bias
    model.mm_projector.0.weight                        projector.model.0.weight
    model.mm_projector.weight                          projector.model.0.weight    of a single layer
    """
    found = {}
    for name, value in state.items():
        name = name.replace("visual_encoder.vision_model.", "visual_encoder.")
        name = _OF_PACKAGE.sub("projector.model.", name)
        found[_SINGLE.sub(r"projector.model.0.\1", name)] = value
    return found
