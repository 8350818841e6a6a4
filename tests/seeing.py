"""Tiny random models that see or hear, by family: configs, and folders as they come from a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from xtuner.model.loading import auto_class_of

TEXT: dict[str, Any] = {
    "vocab_size": 448, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
    "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "embed_dim": 32, "intermediate_size": 48, "num_hidden_layers": 2, "depth": 2,
    "num_attention_heads": 4, "num_heads": 4, "image_size": 28, "patch_size": 14, "out_hidden_size": 32,
    "num_channels": 3, "projection_dim": 32,
}  # fmt: skip
AUDIO: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "num_mel_bins": 16, "max_source_positions": 32, "output_dim": 32, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "n_window": 8,
}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
PARTIAL = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "mrope_section": [1, 1, 0],
}
DEEPSTACK = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LLAMA4 = {
    "intermediate_size_mlp": 48, "num_local_experts": 2, "num_experts_per_tok": 1, "attention_chunk_size": 64,
    "interleave_moe_layer_step": 1,
}  # fmt: skip
KIMI = {
    "model_type": "deepseek_v3", "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    "n_shared_experts": 1, "num_key_value_heads": 4,
}  # fmt: skip
MLLAMA_VISION = {
    "num_global_layers": 1, "attention_heads": 4, "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
    "vision_output_dim": 64, "intermediate_layers_indices": [0],
}  # fmt: skip
MLLAMA = {
    "num_hidden_layers": 3, "cross_attention_layers": [1],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip

# Family -> settings of the language part, of what sees, and of the whole.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "audioflamingo3": ({"model_type": "qwen2"}, {}, {}),
    "aya_vision": ({"model_type": "cohere2", "sliding_window": 4}, {"model_type": "siglip_vision_model"}, {}),
    "gemma3": ({"sliding_window": 4}, {}, {"mm_tokens_per_image": 4}),
    "glm4v": ({"rope_parameters": PARTIAL}, {}, {}),
    "idefics3": ({"model_type": "llama"}, {}, {"scale_factor": 2}),
    "internvl": ({"model_type": "qwen2"}, {"image_size": [28, 28], "patch_size": [14, 14]}, {}),
    "kimi_k25": (KIMI, {}, {}),
    "llama4": (
        LLAMA4, {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}, {},
    ),
    "llava": ({"model_type": "llama"}, {"model_type": "clip_vision_model"}, {}),
    "llava_next": ({"model_type": "llama"}, {"model_type": "clip_vision_model"}, {}),
    "llava_onevision": ({"model_type": "qwen2"}, {"model_type": "siglip_vision_model"}, {}),
    "mistral3": (
        {"model_type": "mistral", "sliding_window": None}, {"model_type": "pixtral", "head_dim": 8}, {},
    ),
    "mllama": (MLLAMA, MLLAMA_VISION, {}),
    "paligemma": ({"model_type": "gemma"}, {"model_type": "siglip_vision_model"}, {"projection_dim": 32}),
    "qwen2_5_omni_thinker": (MROPE, {"fullatt_block_indexes": [1]}, {"vision_start_token_id": 3}),
    "qwen2_5_vl": (MROPE, {"fullatt_block_indexes": [1]}, {}),
    "qwen2_audio": ({"model_type": "qwen2"}, {}, {}),
    "qwen2_vl": (MROPE, {}, {}),
    "qwen3_vl": (MROPE, DEEPSTACK, {}),
    "qwen3_vl_moe": ({**MROPE, **MOE}, DEEPSTACK, {}),
    "smolvlm": ({"model_type": "llama"}, {}, {"scale_factor": 2}),
    "voxtral": ({"model_type": "llama"}, {}, {}),
}  # fmt: skip


def config_of(family: str, settings: Any = None) -> Any:
    """The config of a tiny model of the family, with `settings` in place of those of FAMILIES."""
    kind = CONFIG_MAPPING[family]
    text, vision, whole = settings or FAMILIES[family]
    parts: dict[str, Any] = {"text_config": {**TEXT, **text}}
    if "vision_config" in kind.sub_configs:
        parts["vision_config"] = {**VISION, **vision}
    if "audio_config" in kind.sub_configs and "audio_config" not in whole:
        parts["audio_config"] = dict(AUDIO)
    return kind(**{**parts, **whole})


def make(family: str, settings: Any = None) -> Any:
    """A model of the family with random weights, in eval mode."""
    torch.manual_seed(0)
    config = config_of(family, settings)
    model = auto_class_of(config, family).from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def save(family: str, folder: Path, tokenizer: Any) -> Path:
    """A folder with that model, a tokenizer, and a file for images."""
    make(family).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}\n')
    return folder
