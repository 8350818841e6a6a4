"""Tiny random folders as the package `llava` writes them, and what such a model computes, written out."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
)

SIZE, PATCH, WIDTH, HIDDEN = 56, 14, 32, 64
LENGTH = (SIZE // PATCH) ** 2
CLASSES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM"}
TEXT = {
    "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 5000.0,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# Of LLaVA 1.6.
TILES = {
    "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112], [168, 56]],
}  # fmt: skip


def save_encoder(folder: Path) -> Path:
    """The folder of a CLIP as transformers 4 wrote it, which the package names."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=SIZE,
        patch_size=PATCH,
    )  # fmt: skip
    vision = _random(CLIPVisionModel(config))
    folder.mkdir(parents=True)
    state = {f"vision_model.{name}": tensor for name, tensor in vision.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(LENGTH + 1)[None]
    torch.save(state, folder / "pytorch_model.bin")
    config.save_pretrained(folder)
    crop = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop).save_pretrained(folder)
    return folder


def save(
    folder: Path,
    encoder: Path,
    tokenizer: Any,
    family: str = "llama",
    *,
    projector: str = "mlp2x_gelu",
    inside: bool = False,
    shards: int = 1,
    safe: bool = True,
    **fields: Any,
) -> Path:
    """A folder with that language model and projector; `inside`: with the weights of the encoder."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    config = {
        **TEXT, "vocab_size": len(tokenizer), "architectures": [CLASSES[family]],
        "model_type": f"llava_{family}", "hidden_act": "silu", "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad", "mm_hidden_size": WIDTH, "mm_patch_merge_type": "flat",
        "mm_projector_lr": None, "mm_projector_type": projector, "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": str(encoder), "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right", "torch_dtype": "float32", "transformers_version": "4.37.2",
        "tune_mm_mlp_adapter": False, "unfreeze_mm_vision_tower": inside, "use_cache": True,
        "use_mm_proj": True, **fields,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    llm = _random(AutoModelForCausalLM.from_config(_text_config(config)))
    state = llm.state_dict() | {f"model.{name}": t for name, t in _projector(projector).state_dict().items()}
    if fields.get("image_aspect_ratio") == "anyres":
        state["model.image_newline"] = torch.randn(HIDDEN)
    if inside:
        vision = torch.load(encoder / "pytorch_model.bin")
        vision.pop("vision_model.embeddings.position_ids")
        state |= {f"model.vision_tower.vision_tower.{name}": 1.5 * tensor for name, tensor in vision.items()}
    _write(folder, state, shards, safe)
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    for file in sorted(folder.glob("*.bin")):
        found |= torch.load(file)
    return found


class Reference:
    """The model in a folder as the package computes it: parts of transformers one after the other."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        state = weights_of(folder)
        self.llm: Any = AutoModelForCausalLM.from_config(_text_config(self.config)).double().eval()
        self.newline = state.pop("model.image_newline", torch.zeros(1)).double()
        self.llm.load_state_dict(
            {
                name: t
                for name, t in state.items()
                if ".mm_projector" not in name and ".vision_tower." not in name
            }
        )
        self.projector: Any = _projector(self.config["mm_projector_type"]).double()
        self.projector.load_state_dict(
            {name.removeprefix("model."): t for name, t in state.items() if ".mm_projector" in name}
        )
        encoder = Path(self.config["mm_vision_tower"])
        self.vision: Any = CLIPVisionModel.from_pretrained(encoder).double().eval()
        prefix = "model.vision_tower.vision_tower.vision_model."
        if own := {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}:
            self.vision.load_state_dict(own)
        self.images = CLIPImageProcessorPil.from_pretrained(encoder)

    def rows(self, image: Image.Image) -> torch.Tensor:
        """The rows of an image among the embeddings of the text."""
        if self.config["image_aspect_ratio"] == "anyres":
            return self._rows_of_tiles(image)
        return self._features(self.pixels(image))

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.vision(pixels[None].double(), output_hidden_states=True).hidden_states
        rows = states[self.config["mm_vision_select_layer"]][0]
        takes_class = self.config["mm_vision_select_feature"] == "cls_patch"
        return self.projector.mm_projector(rows if takes_class else rows[1:])

    def _rows_of_tiles(self, image: Image.Image) -> torch.Tensor:
        """The whole image, then the lines of patches of all tiles, each with `image_newline` behind it."""
        wide, high = image.size

        def fit(size: list[int]) -> tuple[int, int]:
            scale = min(size[0] / wide, size[1] / high)
            used = min(int(wide * scale) * int(high * scale), wide * high)
            return used, used - size[0] * size[1]

        width, height = max(self.config["image_grid_pinpoints"], key=fit)
        across, down = width / wide, height / high
        if across < down:
            new = width, min(math.ceil(high * across), height)
        else:
            new = min(math.ceil(wide * down), width), height
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image.resize(new), ((width - new[0]) // 2, (height - new[1]) // 2))
        side = SIZE // PATCH
        whole = self._features(self.pixels(image.resize((SIZE, SIZE))))
        lines = []
        for top in range(0, height, SIZE):
            tiles = [canvas.crop((left, top, left + SIZE, top + SIZE)) for left in range(0, width, SIZE)]
            seen = [self._features(self.pixels(tile)).unflatten(0, (side, side)) for tile in tiles]
            lines += [torch.cat([tile[line] for tile in seen]) for line in range(side)]
        grid = torch.stack(lines)
        rows, columns = grid.shape[:2]
        if wide / high > columns / rows:  # bars above and below
            bar = (rows - int(high * columns / wide)) // 2
            grid = grid[bar : rows - bar]
        else:
            bar = (columns - int(wide * rows / high)) // 2
            grid = grid[:, bar : columns - bar]
        ends = self.newline.expand(len(grid), 1, -1)
        return torch.cat([whole, torch.cat([grid, ends], 1).flatten(0, 1)])

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """An image as the package prepares it: in the middle of a square of the mean colour."""
        if self.config["image_aspect_ratio"] == "pad":
            side = max(image.size)
            square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in self.images.image_mean))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        return self.images(image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def logits(self, pieces: list[list[int]], images: list[Image.Image]) -> torch.Tensor:
        """The logits after each token; the rows of an image are between two pieces of the text."""
        embed = self.llm.get_input_embeddings()
        parts = []
        for number, piece in enumerate(pieces):
            parts.append(embed(torch.tensor(piece, dtype=torch.long)))
            if number < len(images):
                parts.append(self.rows(images[number]))
        return self.llm(inputs_embeds=torch.cat(parts)[None]).logits[0]


def _text_config(config: dict[str, Any]) -> Any:
    (family,) = (family for family, name in CLASSES.items() if name == config["architectures"][0])
    return AutoConfig.for_model(family, **{name: config[name] for name in (*TEXT, "vocab_size")})


def _projector(kind: str) -> nn.Module:
    """The module `mm_projector` of a model."""
    layers = {
        "identity": nn.Identity(),
        "linear": nn.Linear(WIDTH, HIDDEN),
        "mlp2x_gelu": nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)),
        "mlp3x_gelu": nn.Sequential(
            nn.Linear(WIDTH, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
        ),
    }
    return _random(nn.ModuleDict({"mm_projector": layers[kind]}))


def _random(module: Any) -> Any:
    for parameter in module.parameters():
        torch.nn.init.normal_(
            parameter, std=0.2 if parameter.dim() > 1 else 0.1, mean=float(parameter.dim() == 1)
        )
    return module


def _write(folder: Path, state: dict[str, torch.Tensor], shards: int, safe: bool) -> None:
    from safetensors.torch import save_file

    stem, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    state = {name: tensor.clone() for name, tensor in state.items()}
    files = {name: f"{stem}-{i % shards + 1:05}-of-{shards:05}.{ending}" for i, name in enumerate(state)}
    if shards == 1:
        files = dict.fromkeys(state, f"{stem}.{ending}")
    else:
        index = {"metadata": {}, "weight_map": files}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    for file in set(files.values()):
        own = {name: tensor for name, tensor in state.items() if files[name] == file}
        if safe:
            save_file(own, folder / file, {"format": "pt"})
        else:
            torch.save(own, folder / file)


def save_llm(folder: Path, whole: Path) -> Path:
    """The folder of the language model that a folder of the package was trained from."""
    config = json.loads((whole / "config.json").read_text())
    llm = AutoModelForCausalLM.from_config(_text_config(config))
    beside = ("model.mm_projector", "model.image_newline")
    llm.load_state_dict({n: t for n, t in weights_of(whole).items() if not n.startswith(beside)})
    llm.save_pretrained(folder)
    for file in whole.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def save_adapter(folder: Path, whole: Path, llm: Path) -> Path:
    """An adapter of the language model as the package saves it, with a trained projector beside it."""
    lora = LoraConfig(
        r=4, lora_alpha=32, init_lora_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM"
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(llm), lora).save_pretrained(str(folder))
    shutil.copy(whole / "config.json", folder)
    trained = {n: t for n, t in weights_of(whole).items() if n.startswith(("model.mm_p", "model.image_"))}
    torch.save(
        {f"base_model.model.{n}": 2 * t for n, t in trained.items()}, folder / "non_lora_trainables.bin"
    )
    return folder
