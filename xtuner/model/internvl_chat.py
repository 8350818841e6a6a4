"""InternVL's own folders (`internvl_chat`) as InternVL of transformers, without the Python files they bring.

    config.json   llm_config, vision_config of InternViT                text_config, InternVLVisionConfig
    weights       vision_model.encoder.layers.0.attn.qkv.weight         q_proj, k_proj, v_proj of vision_tower
                  vision_model.encoder.layers.0.ls1                     lambda_1
                  mlp1.0.weight  mlp1.1.weight  mlp1.3.weight           layer_norm, linear_1, linear_2
                  language_model.model.layers.0...                      model.language_model.layers.0...

transformers reads the weights by KEYS and writes them back under their own names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from xtuner.errors import ModelError
from xtuner.internvl_folder import FAMILY, image_token_id
from xtuner.language import translate
from xtuner.log import say_once

_LAYERS = "model.vision_tower.encoder.layer."
_EMBEDDINGS = "model.vision_tower.embeddings."
# A pattern of InternVL's names -> transformers' part, applied one after the other.
_RENAMED = {
    r"^vision_model\.encoder\.layers\.": _LAYERS,
    r"^vision_model\.embeddings\.class_embedding": f"{_EMBEDDINGS}cls_token",
    r"^vision_model\.embeddings\.position_embedding": f"{_EMBEDDINGS}position_embeddings",
    r"^vision_model\.embeddings\.patch_embedding\.": f"{_EMBEDDINGS}patch_embeddings.projection.",
    r"\.ls1": ".lambda_1",
    r"\.ls2": ".lambda_2",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.attn\.proj\.": ".attention.projection_layer.",
    r"\.attn\.q_norm\.": ".attention.q_norm.",
    r"\.attn\.k_norm\.": ".attention.k_norm.",
    r"^mlp1\.0\.": "model.multi_modal_projector.layer_norm.",
    r"^mlp1\.1\.": "model.multi_modal_projector.linear_1.",
    r"^mlp1\.3\.": "model.multi_modal_projector.linear_2.",
    r"^language_model\.model\.": "model.language_model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.output\.": "output.",  # of InternLM2
}
_QKV = ["attention.q_proj", "attention.k_proj", "attention.v_proj"]
KEYS: list[WeightConverter | WeightRenaming] = [
    *(WeightRenaming(source_patterns=own, target_patterns=theirs) for own, theirs in _RENAMED.items()),
    WeightConverter(r"attn.qkv", _QKV, operations=[Chunk(dim=0)]),
]
# InternViT's name of a field of the config -> transformers', and InternViT's default.
_VISION: dict[str, tuple[str, Any]] = {
    "hidden_size": ("hidden_size", 3200),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "num_attention_heads": ("num_attention_heads", 25),
    "intermediate_size": ("intermediate_size", 12800),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 14),
    "num_channels": ("num_channels", 3),
    "hidden_act": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
    "norm_type": ("norm_type", "rms_norm"),
    "qkv_bias": ("attention_bias", False),
    "qk_normalization": ("use_qk_norm", True),
    "dropout": ("projection_dropout", 0.0),
    "attention_dropout": ("attention_dropout", 0.0),
    "initializer_range": ("initializer_range", 0.02),
}
_VISION_FAMILY = "intern_vit_6b"  # of every size


class InternVLChatConfig(InternVLConfig):
    """Fields of InternVL's own `config.json`; the parts are configs of transformers."""

    model_type = FAMILY
    image_token_id: int = -1  # unless the folder says: as its tokenizer has it
    tie_word_embeddings: bool = False
    downsample_ratio: float = 0.5
    # What InternVL's own code would take if a config has not these.
    select_layer: int = -1
    ps_version: str = "v1"
    force_image_size: int | None = None
    dynamic_image_size: bool = False
    use_thumbnail: bool = False
    min_dynamic_patch: int = 1
    max_dynamic_patch: int = 6

    def __post_init__(self, **kwargs: Any) -> None:
        path = kwargs.get("name_or_path") or ""
        llm = kwargs.pop("llm_config", None)
        if llm is not None:
            self.text_config = _text_of(llm)
            self.tie_word_embeddings = bool(llm.get("tie_word_embeddings", False))
        if isinstance(self.vision_config, Mapping) and self.vision_config.get("model_type") == _VISION_FAMILY:
            self.vision_config = _vision_of(self.vision_config)
        self.vision_feature_layer = self.select_layer
        if llm is not None and self.ps_version != "v2":
            what = (
                "{path}: models with ps_version {version} order the parts of an image in another way: {cure}"
            )
            cure = translate("name one of InternVL 1.5 or later")
            raise ModelError(translate(what, path=path, version=self.ps_version, cure=cure))
        super().__post_init__(**kwargs)
        if self.image_token_id < 0 and path:
            self.image_token_id = image_token_id(path)

    def to_dict(self) -> dict[str, Any]:
        """The fields as InternVL's own code reads them."""
        fields = super().to_dict()
        fields["llm_config"] = fields.pop("text_config")
        fields["vision_config"] = _vision_back(fields["vision_config"])
        for name in ("vision_feature_layer", "vision_feature_select_strategy", "projector_hidden_act"):
            fields.pop(name, None)
        return fields


class InternVLChatDecoder(InternVLModel):
    """InternVL without a head. For its parent class transformers has other names in files."""

    config_class = InternVLChatConfig


class InternVLChatModel(InternVLForConditionalGeneration):
    """InternVL of transformers, whose files have InternVL's own names."""

    config_class = InternVLChatConfig

    def __init__(self, config: InternVLChatConfig) -> None:
        PreTrainedModel.__init__(self, config)
        text: Any = config.text_config
        self.model = InternVLChatDecoder(config)
        # InternLM2's own name, so that each name in the files belongs to one here.
        name = "output" if text.model_type == "internlm2" else "lm_head"
        setattr(self, name, nn.Linear(text.hidden_size, text.vocab_size, bias=False))
        if name == "output":
            self._tied_weights_keys = {"output.weight": "model.language_model.tok_embeddings.weight"}
        self.post_init()

    def __getattr__(self, name: str) -> Any:
        if name == "lm_head" and name not in self._modules:
            name = "output"
        return super().__getattr__(name)

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        setattr(self, "output" if "output" in self._modules else "lm_head", new_embeddings)


def register() -> None:
    """Let the auto classes of transformers read and write such folders."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    AutoConfig.register(FAMILY, InternVLChatConfig)
    AutoModelForImageTextToText.register(InternVLChatConfig, InternVLChatModel)
    register_checkpoint_conversion_mapping(FAMILY, KEYS, overwrite=True)


def _text_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model, in words that transformers still reads."""
    rope = fields.get("rope_scaling")
    if not isinstance(rope, Mapping) or rope.get("type") != "su":  # of Phi-3, before it was renamed
        return dict(fields)
    return {**fields, "rope_scaling": {**rope, "type": "longrope"}}


def _vision_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of InternVLVisionConfig for those of an InternViT."""
    if rate := fields.get("drop_path_rate"):
        say_once(
            "The image encoder's drop_path_rate = {rate} is not applied: its layers all run",
            logging.INFO,
            rate=rate,
        )
    found = {theirs: fields.get(own, default) for own, (theirs, default) in _VISION.items()}
    return {**found, "model_type": "internvl_vision"}


def _vision_back(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `_vision_of`."""
    found = {own: fields.get(theirs, default) for own, (theirs, default) in _VISION.items()}
    for name in ("image_size", "patch_size"):  # a pair in transformers
        if isinstance(found[name], (list, tuple)):
            found[name] = found[name][0]
    return {**found, "model_type": _VISION_FAMILY, "architectures": ["InternVisionModel"]}
