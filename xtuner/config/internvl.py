"""InternVL_V1_5 in a config, as the general vision-language model that it is.

    dict(type=InternVL_V1_5, model_path=P, quantization_llm=True, llm_lora=L, freeze_visual_encoder=True)
    dict(type=VisionLanguageFinetune, llm=dict(..., pretrained_model_name_or_path=P, quantization_config=...),
         lora=L, freeze_vision=True, freeze_projector=False)

The model is made of the second form, and checks, estimates and conversion read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtuner.config.folders import called
from xtuner.config.load import Config, with_values

_NAME = "InternVL_V1_5"
_VISION, _PROJECTOR, _LANGUAGE = "model.vision_tower", "model.multi_modal_projector", "model.language_model"
_HEADS = ["lm_head", "output"]
_BITS = {
    "type": "transformers.BitsAndBytesConfig",
    "load_in_4bit": True,
    "bnb_4bit_compute_dtype": "torch.float16",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_type": "nf4",
}


def general_model(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `model` of a config with `llm` and the settings of VisionLanguageFinetune; another as it is."""
    return _general(model) if called(model) == _NAME else model


def general_config(config: Config) -> Config:
    """The config with its model as `general_model` has it; another as it is."""
    model = config.get("model") or {}
    general = general_model(model)
    if general is model:
        return config
    return with_values(config, model=Config(general))


def _general(model: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(model)
    path = rest.pop("model_path", None)
    llm = {
        "type": "transformers.AutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": path,
    }
    kept = [_PROJECTOR, *_HEADS]
    quantised = {_VISION: rest.pop("quantization_vit", False), _LANGUAGE: rest.pop("quantization_llm", False)}
    kept += [name for name, wanted in quantised.items() if not wanted]
    if any(quantised.values()):
        llm["quantization_config"] = {**_BITS, "llm_int8_skip_modules": kept}
    found = {
        "llm": llm,
        "lora": rest.pop("llm_lora", None),
        "vision_lora": rest.pop("visual_encoder_lora", None),
        "freeze_llm": rest.pop("freeze_llm", False),
        "freeze_vision": rest.pop("freeze_visual_encoder", False),
        "freeze_projector": False,
    }
    return {**rest, "type": "xtuner.model.VisionLanguageFinetune", **found}
