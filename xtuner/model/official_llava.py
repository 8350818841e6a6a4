"""Folders of the package `llava` as LLaVA of transformers, without that package.

    config.json   fields of the language model, mm_...                  text_config, vision_config
    weights       model.layers.0..., model.embed_tokens, model.norm     model.language_model...
                  model.mm_projector.0, .2                              model.multi_modal_projector.0, .2
                  model.vision_tower.vision_tower.vision_model...       model.vision_tower...
                  model.image_newline                                   the same; LLaVA 1.6, with tiles
                  none of the encoder: it is only named                 read from its own folder

transformers reads the weights by KEYS and writes them back under their own names. The token of images is
behind the vocabulary, so that the embedding stays as it is in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaNextModel,
    PreTrainedModel,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from xtuner import llava_folder
from xtuner.errors import ModelError
from xtuner.language import translate
from xtuner.llava_folder import ENCODER_CONFIG, FAMILIES, cuts_tiles

_TOWER = "model.vision_tower.vision_tower.vision_model."
# A pattern of the package's names -> transformers' part.
_RENAMED = {
    r"^model\.embed_tokens\.": "model.language_model.embed_tokens.",
    r"^model\.layers\.": "model.language_model.layers.",
    r"^model\.norm\.": "model.language_model.norm.",
    r"^model\.mm_projector\.": "model.multi_modal_projector.",
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
}
KEYS: list[WeightConverter | WeightRenaming] = [
    WeightRenaming(source_patterns=own, target_patterns=theirs) for own, theirs in _RENAMED.items()
]
# Fields that are of no language model.
_OTHERS = ("mm_", "image_", "tune_", "freeze_", "unfreeze_", "tokenizer_", "architectures", "model_type")


class OfficialLlavaConfig(LlavaConfig):
    """Fields of a config.json of the package; the parts are configs of transformers.

    `official`: the fields as they were read.
    """

    model_type = FAMILIES[0]
    official: dict[str, Any] | None = None
    image_grid_pinpoints: list[Any] | None = None  # height and width

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The config for the fields of a config.json; `mm_vision_tower` names another image encoder."""
        named = kwargs.pop("mm_vision_tower", None)
        if llava_folder.is_official(config_dict):
            if named is not None:
                config_dict = {**config_dict, "mm_vision_tower": str(named)}
            path = kwargs.get("name_or_path") or config_dict.get("_name_or_path") or ""
            config_dict = _parts_of(config_dict, str(path))
        return super().from_dict(config_dict, **kwargs)

    @property
    def mm_vision_tower(self) -> str | None:
        """The folder or name of the image encoder."""
        return (self.official or {}).get("mm_vision_tower")

    def to_dict(self) -> dict[str, Any]:
        """The fields as the package reads them, and the config of the encoder."""
        fields = super().to_dict()
        official = fields.pop("official")
        if official is None:  # of a config without a folder
            return fields
        before, now = _text_of(official).to_dict(), fields["text_config"]
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        kept = {
            name: fields[name]
            for name in ("dtype", "transformers_version", "_name_or_path")
            if name in fields
        }
        official.pop("torch_dtype", None)
        return {**official, **changed, **kept, ENCODER_CONFIG: fields["vision_config"]}

    def to_diff_dict(self) -> dict[str, Any]:
        fields = super().to_diff_dict() if self.official is None else self.to_dict()
        fields.pop("_name_or_path", None)
        return fields


class OfficialLlavaMistralConfig(OfficialLlavaConfig):
    """The same, by the package's name for those with a Mistral."""

    model_type = FAMILIES[1]


class OfficialLlavaDecoder(LlavaModel):
    """LLaVA without a head, whose projector has any depth and whose token of images needs no embedding."""

    config_class = OfficialLlavaConfig

    def __init__(self, config: OfficialLlavaConfig) -> None:
        super().__init__(config)
        assert config.official is not None
        sizes: Any = config.vision_config, config.text_config
        self.multi_modal_projector: Any = _projector(config.official, *(size.hidden_size for size in sizes))
        if config.image_grid_pinpoints:
            self.image_newline = nn.Parameter(torch.zeros(sizes[1].hidden_size))

    def get_image_features(self, pixel_values: Any, image_sizes: Any = None, **kwargs: Any) -> Any:
        of: Any = LlavaNextModel if self.config.image_grid_pinpoints else LlavaModel
        return of.get_image_features(self, pixel_values, image_sizes=image_sizes, **kwargs)

    def pack_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """The rows of images that are cut into tiles, with a row at the end of each of their lines."""
        of: Any = LlavaNextModel
        return of.pack_image_features(self, *args, **kwargs)

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **kwargs: Any) -> Any:
        if input_ids is None:
            return super().forward(pixel_values=pixel_values, **kwargs)
        is_image = input_ids == self.config.image_token_id
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if pixel_values is not None:
            sizes = kwargs.pop("image_sizes", None)
            found = self.get_image_features(pixel_values, image_sizes=sizes, return_dict=True).pooler_output
            rows = torch.cat(list(found)).to(embeddings.device, embeddings.dtype)
            places = self.get_placeholder_mask(input_ids, inputs_embeds=embeddings, image_features=rows)
            embeddings = embeddings.masked_scatter(places, rows)
        return super().forward(**{**kwargs, "inputs_embeds": embeddings})


class OfficialLlava(LlavaForConditionalGeneration):
    """LLaVA of transformers, whose files have the names of the package."""

    config_class = OfficialLlavaConfig

    def __init__(self, config: OfficialLlavaConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.model = OfficialLlavaDecoder(config)
        text: Any = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        # Of files that older versions of transformers wrote.
        self._keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq", r"embeddings\.position_ids"]
        self.post_init()

    @staticmethod
    def _load_pretrained_model(model: Any, state: Any, files: Any, load_config: Any, *args: Any) -> Any:
        load: Any = LlavaForConditionalGeneration._load_pretrained_model
        report, offloaded = load(model, state, files, load_config, *args)
        encoder = {name for name in report.missing_keys if name.startswith("model.vision_tower.")}
        if len(encoder) == len(model.model.vision_tower.state_dict()):
            # The files have nothing of the encoder, which is only named.
            weights = _encoder_weights(model.config, load_config.dtype)
            own, _ = load(model, weights, None, load_config, *args)
            report.missing_keys -= encoder - own.missing_keys
            report.mismatched_keys |= own.mismatched_keys
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        if missing := sorted(report.missing_keys - tied):  # for which transformers would take random values
            what = "the weights of {path} lack {name}, under its name in the package llava"
            raise ModelError(translate(what, path=model.config.name_or_path, name=missing[0]))
        return report, offloaded


class OfficialLlavaMistral(OfficialLlava):
    """The same, for the config of a Mistral."""

    config_class = OfficialLlavaMistralConfig


def config_of(fields: Mapping[str, Any], path: str | Path, mm_vision_tower: str | Path | None = None) -> Any:
    """The config for the `fields` of the config.json of a folder or hub name; of any `model_type`."""
    kind = OfficialLlavaMistral if llava_folder.text_family(fields) == "mistral" else OfficialLlava
    config: Any = kind.config_class
    return config.from_dict(dict(fields), name_or_path=str(path), mm_vision_tower=mm_vision_tower)


def _parts_of(official: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Arguments of OfficialLlavaConfig for the fields of the config.json in `path`."""
    llava_folder.check_supported(official, path)
    encoder, text = llava_folder.encoder_config(official, path), _text_of(official)
    return {
        "official": {name: value for name, value in official.items() if name != "_name_or_path"},
        "vision_config": encoder,
        "text_config": text,
        "image_token_index": llava_folder.image_token_id(path, text.model_type),
        **({"image_grid_pinpoints": llava_folder.grids_of(official)} if cuts_tiles(official) else {}),
        "vision_feature_layer": official.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": llava_folder.strategy_of(official, encoder),
        "tie_word_embeddings": bool(official.get("tie_word_embeddings", False)),
        "architectures": official.get("architectures"),
        "dtype": official.get("dtype", official.get("torch_dtype")),
        **({"quantization_config": q} if (q := official.get("quantization_config")) else {}),
    }


def _text_of(official: Mapping[str, Any]) -> Any:
    """The config of the language model."""
    fields = {name: value for name, value in official.items() if not name.startswith(_OTHERS)}
    return AutoConfig.for_model(str(llava_folder.text_family(official)), **fields)


def _projector(official: Mapping[str, Any], width: int, hidden: int) -> nn.Module:
    """The projector from `width` to `hidden`, with the package's names of weights."""
    depth = llava_folder.projector_depth(official)
    if depth == 0:
        return nn.Identity()
    if official.get("mm_projector_type", "linear") == "linear":
        return nn.Linear(width, hidden)
    layers: list[nn.Module] = [nn.Linear(width, hidden)]
    for _ in range(1, depth):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)


def _encoder_weights(config: Any, dtype: Any) -> dict[str, Any]:
    """The weights of the encoder that a config names, under the package's names."""
    from xtuner.model.vision.encoder import load_visual_encoder

    folder = llava_folder.encoder_folder(config.official, config.name_or_path)
    vision = load_visual_encoder({"pretrained_model_name_or_path": folder}, dtype)
    return {f"{_TOWER}{name}": weight for name, weight in vision.state_dict().items()}


def register() -> None:
    """Let the auto classes of transformers read and write such folders."""
    for family, model in zip(FAMILIES, (OfficialLlava, OfficialLlavaMistral), strict=True):
        AutoConfig.register(family, model.config_class)
        AutoModelForImageTextToText.register(model.config_class, model)
        register_checkpoint_conversion_mapping(family, KEYS, overwrite=True)
