"""Tiny random folders in InternVL's own form, and what such a model computes, written out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from xtuner.model.loading import register_families

TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
SIZE, PATCH, WIDTH, LAYERS, HEADS, HIDDEN = 28, 7, 16, 2, 4, 32
TEXT = {
    "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# The language models of the recipes, and those of later models in the same form.
CLASSES = {
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
TEMPLATES = {"internlm2": "internlm2-chat", "phi3": "phi3-chat", "llama": "Hermes-2", "qwen2": "Hermes-2"}


def save(folder: Path, family: str, tokenizer: Any, *, big: bool = False, **fields: Any) -> Path:
    """A folder of that language model; `big`: its encoder as that of the 26B models."""
    register_families()
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    tokenizer.save_pretrained(folder)
    rows = -(-len(tokenizer) // 8) * 8
    llm = _language_model(family, rows)
    state = {f"language_model.{name}": tensor for name, tensor in llm.state_dict().items()}
    state |= _vision(big) | _projector()
    save_file(
        {name: tensor.clone() for name, tensor in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    vision = {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 24,
        "image_size": SIZE, "patch_size": PATCH, "num_channels": 3, "hidden_act": "gelu",
        "layer_norm_eps": 1e-6, "dropout": 0.0, "drop_path_rate": 0.0, "attention_dropout": 0.0,
        "initializer_factor": 1.0, "initializer_range": 0.02,
        "norm_type": "rms_norm" if big else "layer_norm", "qkv_bias": not big, "qk_normalization": big,
    }  # fmt: skip
    text = {**llm.config.to_dict(), "architectures": [CLASSES[family]], "model_type": family}
    config = {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": "modeling_internvl_chat.InternVLChatModel",
            "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
        },
        "llm_config": text, "vision_config": vision, "downsample_ratio": 0.5, "dynamic_image_size": True,
        "force_image_size": SIZE, "max_dynamic_patch": 12, "min_dynamic_patch": 1, "pad2square": False,
        "ps_version": "v2", "select_layer": -1, "template": TEMPLATES[family], "use_thumbnail": True,
        "torch_dtype": "float32", "use_backbone_lora": 0, "use_llm_lora": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**config, **fields}, indent=2))
    # Names of Python files that are not there, so nothing can run them.
    (folder / "modeling_internvl_chat.py").write_text("raise RuntimeError('code of the folder ran')\n")
    (folder / "configuration_internvl_chat.py").write_text("raise RuntimeError('code of the folder ran')\n")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"crop_size": SIZE, "feature_extractor_type": "CLIPFeatureExtractor", "size": SIZE})
    )
    return folder


def _language_model(family: str, rows: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    more = {"internlm2": {"bias": False}, "qwen2": {"use_sliding_window": False}}.get(family, {})
    config = AutoConfig.for_model(family, **{**TEXT, "vocab_size": rows, **more})
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(
            parameter, std=0.3 if parameter.dim() > 1 else 0.1, mean=float(parameter.dim() == 1)
        )
    return model


def _vision(big: bool) -> dict[str, torch.Tensor]:
    """The encoder's weights under InternVL's names."""
    patches = (SIZE // PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (1, 1, WIDTH),
        "embeddings.position_embedding": (1, patches + 1, WIDTH),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (WIDTH,),
    }
    for number in range(LAYERS):
        layer: dict[str, tuple[int, ...]] = {
            "ls1": (WIDTH,), "ls2": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "mlp.fc1.weight": (24, WIDTH), "mlp.fc1.bias": (24,), "mlp.fc2.weight": (WIDTH, 24),
            "mlp.fc2.bias": (WIDTH,), "norm1.weight": (WIDTH,), "norm2.weight": (WIDTH,),
        }  # fmt: skip
        if big:
            layer |= {"attn.q_norm.weight": (WIDTH,), "attn.k_norm.weight": (WIDTH,)}
        else:
            layer |= {"attn.qkv.bias": (3 * WIDTH,), "norm1.bias": (WIDTH,), "norm2.bias": (WIDTH,)}
        shapes |= {f"encoder.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {f"vision_model.{name}": torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def _projector() -> dict[str, torch.Tensor]:
    shapes = {
        "0.weight": (4 * WIDTH,), "0.bias": (4 * WIDTH,), "1.weight": (HIDDEN, 4 * WIDTH),
        "1.bias": (HIDDEN,), "3.weight": (HIDDEN, HIDDEN), "3.bias": (HIDDEN,),
    }  # fmt: skip
    return {f"mlp1.{name}": torch.randn(shape) * 0.3 for name, shape in shapes.items()}


class Reference:
    """What a folder computes, in float64: InternVL's definition on the tensors of its files."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        self.weights = {n: t.double() for n, t in load_file(folder / "model.safetensors").items()}
        config = json.loads((folder / "config.json").read_text())
        self.vision = config["vision_config"]
        text = {name: v for name, v in config["llm_config"].items() if name != "dtype"}
        if text.get("rope_scaling"):  # its name today
            text["rope_scaling"]["type"] = "longrope"
        self.llm = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**text), attn_implementation="eager"
        ).double().eval()  # fmt: skip
        self.llm.load_state_dict(
            {
                n.removeprefix("language_model."): t
                for n, t in self.weights.items()
                if n.startswith("language_model.")
            }
        )

    def _norm(self, x: torch.Tensor, name: str, kind: str) -> torch.Tensor:
        weight = self.weights[f"{name}.weight"]
        if kind == "rms_norm":
            return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return functional.layer_norm(x, weight.shape, weight, self.weights[f"{name}.bias"], 1e-6)

    def image_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """The embeddings `[tiles, rows, hidden]` of tiles `[tiles, 3, size, size]`."""
        get = self.weights.__getitem__
        own, kind = "vision_model.embeddings", self.vision["norm_type"]
        x = functional.conv2d(
            pixels, get(f"{own}.patch_embedding.weight"), get(f"{own}.patch_embedding.bias"), PATCH
        )
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([get(f"{own}.class_embedding").expand(len(x), -1, -1), x], 1)
        x = x + get(f"{own}.position_embedding")
        for number in range(LAYERS):
            own = f"vision_model.encoder.layers.{number}"
            y = self._norm(x, f"{own}.norm1", kind)
            joined = functional.linear(
                y, get(f"{own}.attn.qkv.weight"), self.weights.get(f"{own}.attn.qkv.bias")
            )
            q, k, v = joined.unflatten(-1, (3, WIDTH)).unbind(-2)
            if self.vision["qk_normalization"]:
                q = self._norm(q, f"{own}.attn.q_norm", "rms_norm")
                k = self._norm(k, f"{own}.attn.k_norm", "rms_norm")
            q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
            scores = (q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1)
            y = (scores @ v).transpose(1, 2).flatten(2)
            y = functional.linear(y, get(f"{own}.attn.proj.weight"), get(f"{own}.attn.proj.bias"))
            x = x + y * get(f"{own}.ls1")
            y = functional.linear(
                self._norm(x, f"{own}.norm2", kind), get(f"{own}.mlp.fc1.weight"), get(f"{own}.mlp.fc1.bias")
            )
            y = functional.linear(
                functional.gelu(y), get(f"{own}.mlp.fc2.weight"), get(f"{own}.mlp.fc2.bias")
            )
            x = x + y * get(f"{own}.ls2")
        return self._project(x[:, 1:])

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        """Squares of four patches as one row: pixel shuffle, second version."""
        get, side = self.weights.__getitem__, SIZE // PATCH
        x = x.reshape(len(x), side, side, WIDTH)
        # [tiles, row, column, channels] -> a square's left patches, row by row of it, then its right ones
        rows = [
            torch.cat(
                [
                    x[:, 2 * r, 2 * c],
                    x[:, 2 * r, 2 * c + 1],
                    x[:, 2 * r + 1, 2 * c],
                    x[:, 2 * r + 1, 2 * c + 1],
                ],
                -1,
            )
            for r in range(side // 2)
            for c in range(side // 2)
        ]
        x = torch.stack(rows, 1)
        x = functional.layer_norm(x, (4 * WIDTH,), get("mlp1.0.weight"), get("mlp1.0.bias"))
        x = functional.gelu(functional.linear(x, get("mlp1.1.weight"), get("mlp1.1.bias")))
        return functional.linear(x, get("mlp1.3.weight"), get("mlp1.3.bias"))

    def logits(self, ids: torch.Tensor, pixels: torch.Tensor | None, token_id: int) -> torch.Tensor:
        """Logits `[tokens, vocabulary]` of one sample."""
        embeddings = self.llm.get_input_embeddings()(ids)
        if pixels is not None:
            rows = self.image_rows(pixels.double()).flatten(0, 1)
            embeddings = embeddings.masked_scatter((ids == token_id)[:, None], rows)
        return self.llm(inputs_embeds=embeddings[None], use_cache=False).logits[0]
