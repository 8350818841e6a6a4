"""The checkpoint of a LLaVA run as folders: three layouts.

    xtuner        OUT/llm_adapter or the language model in OUT, OUT/visual_encoder_adapter or
                  OUT/visual_encoder, OUT/projector: what was trained, and no more
    huggingface   OUT is a LlavaForConditionalGeneration with its processor, adapters merged
    official      OUT is a LlavaLlamaForCausalLM of the package `llava`, adapters merged

The last two are made of the first: base and adapter are merged tensor by tensor, and written under new names.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from xtuner import llava_folder
from xtuner.chat.trained_with import CONFIG_NAME
from xtuner.config import Config
from xtuner.convert.card import without_local_paths, write_card
from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.merge import merge
from xtuner.convert.output import new_folder, on_the_way
from xtuner.convert.progress import byte_bar
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.served import serve_as_trained
from xtuner.convert.trained import About, Cast, Writing, half_dtype, write_adapter, write_model
from xtuner.convert.weights import Weights, write_file, write_weights
from xtuner.errors import CheckpointError, ConfigError
from xtuner.image_processor import load_image_processor, num_patches
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.state import adapter_key, is_adapter
from xtuner.model.vision.encoder import SELECT_LAYER
from xtuner.model.vision.projector import Projector
from xtuner.model_folder import read_json

FORMATS = ("xtuner", "official", "huggingface")
_PARTS = ("llm.", "visual_encoder.", "projector.")
_VISION = "vision_model."
_MULTIPLE = 64  # of rows of an embedding
_Source = tuple[Callable[[str], torch.Tensor], str, TensorInfo]


def is_llava(cfg: Config) -> bool:
    """Whether the config trains a LLaVA."""
    return "visual_encoder" in cfg.get("model", {})


def write_llava(save_dir: str | Path, checkpoint: Mapping[str, Any], how: Writing, save_format: str) -> None:
    """Write the checkpoint of a LLaVA run in one of FORMATS; CheckpointError if it has no projector."""
    if save_format not in FORMATS:
        raise ConfigError(
            translate(
                "save_format is {save_format!r}: write one of {names}.",
                save_format=save_format,
                names=", ".join(FORMATS),
            )
        )
    state: Mapping[str, torch.Tensor] = checkpoint["state_dict"]
    if not any(name.startswith("projector.") for name in state):
        raise CheckpointError(
            translate("{path} has no projector: it is not the checkpoint of a LLaVA run.", path=how.path)
        )
    if foreign := [name for name in state if not name.startswith(_PARTS)]:
        raise CheckpointError(
            translate("{path} holds {name!r}, which is no part of a LLaVA.", path=how.path, name=foreign[0])
        )
    itemsize = (torch.float32 if how.fp32 else half_dtype(how.cfg, state)).itemsize
    size = sum(tensor.numel() * itemsize for tensor in state.values())
    with new_folder(save_dir, sources=(how.path.resolve().parent,), num_bytes=size) as folder:
        if save_format == "xtuner":
            _write_parts(folder, checkpoint, how)
        else:
            with on_the_way(folder) as parts:
                _write_parts(parts, checkpoint, how)
                _write_whole(folder, parts, how, save_format)
        (folder / CONFIG_NAME).write_text(without_local_paths(how.cfg.text), "utf-8")
        if (folder / "config.json").is_file():
            serve_as_trained(folder)
        write_card(folder, _named(how.cfg, "llm"), "model")


# --- what was trained, each part in its folder ------------------------------------------------------------


def _write_parts(folder: Path, checkpoint: Mapping[str, Any], how: Writing) -> None:
    state, files = checkpoint["state_dict"], checkpoint.get("meta", {}).get("hf_files") or {}
    dtype = torch.float32 if how.fp32 else half_dtype(how.cfg, state)
    if not how.fp32:
        logger.info(translate("Convert LLM to %s"), str(dtype).removeprefix("torch."))
    with byte_bar(translate("Saving"), sum(t.numel() for t in state.values()) * dtype.itemsize) as advance:
        for part, whole in (("llm", "."), ("visual_encoder", "visual_encoder")):
            own = {name: t for name, t in state.items() if name.startswith(f"{part}.")}
            if not own:
                continue
            adapted = is_adapter(own)
            where = folder / (f"{part}_adapter" if adapted else whole)
            where.mkdir(exist_ok=True)
            what = translate("Saving %s adapter to %s" if adapted else "Saving %s model to %s")
            logger.info(what, part, where.name or folder)
            names = {name: _name_in_file(name, part, adapted) for name in own}
            tensors = Cast({names[name]: t for name, t in own.items()}, dtype, how.path)
            prefix = "" if where == folder / "." else f"{where.name}/"
            about = About(_named(how.cfg, part), _below(files, prefix), how.cfg.model.get(f"{part}_lora"))
            load, safe = tensors.loader(advance), how.safe_serialization
            if adapted:
                write_adapter(where, tensors, load, about, safe_serialization=safe)
            else:
                limit = how.max_shard_size
                write_model(where, tensors, load, about, max_shard_size=limit, safe_serialization=safe)
        tensors = Cast(_of_projector(state), dtype, how.path)
        _write_projector(folder / "projector", tensors, tensors.loader(advance), how)
        config = files.get("projector/config.json") or _projector_config(tensors)
        (folder / "projector" / "config.json").write_text(config, "utf-8")


def _name_in_file(name: str, part: str, adapted: bool) -> str:
    name = name.removeprefix(f"{part}.")
    return adapter_key(name) if adapted else name


def _below(files: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The files of one folder, by their names in it."""
    found = {name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)}
    return {name: data for name, data in found.items() if "/" not in name}


def _of_projector(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n.removeprefix("projector."): t for n, t in state.items() if n.startswith("projector.")}


def _write_projector(folder: Path, tensors: Cast, load: Callable[[str], torch.Tensor], how: Writing) -> None:
    folder.mkdir()
    logger.info(translate("Saving projector to %s"), folder.name)
    name = "model.safetensors" if how.safe_serialization else "pytorch_model.bin"
    write_file(folder / name, tensors.infos, load)


def _projector_config(tensors: Cast) -> str:
    """The config of a projector whose checkpoint, of XTuner 0.1.x, has none."""
    llm_size, visual_size = tensors.infos["model.0.weight"].shape
    depth = sum(name.endswith(".weight") for name in tensors)
    with torch.device("meta"):
        return Projector(visual_size, llm_size, depth, bias="model.0.bias" in tensors).config_text


def _named(cfg: Config, part: str) -> str | None:
    name = cfg.model.get(part, {}).get("pretrained_model_name_or_path")
    return None if name is None else str(name)


# --- one whole model --------------------------------------------------------------------------------


def _write_whole(folder: Path, parts: Path, how: Writing, save_format: str) -> None:
    llm = _whole_part(parts, parts, "llm", how)
    vision = _whole_part(parts, parts / "visual_encoder", "visual_encoder", how)
    layout = _HuggingFace if save_format == "huggingface" else _Official
    layout(folder, llm, vision, parts / "projector", how).write()


def _whole_part(parts: Path, trained: Path, part: str, how: Writing) -> Path:
    """The folder of a part with all its weights: as it was trained, merged, or the base."""
    if (trained / "config.json").is_file():
        return trained
    base = model_folder(_named(how.cfg, part) or "", f"model.{part}")
    adapter = parts / f"{part}_adapter"
    if not adapter.is_dir():
        return base
    merged = parts / f"{part}_merged"
    merge(base, adapter, merged, is_clip=part == "visual_encoder", check=False)
    return merged


class _Layout(ABC):
    """A layout of a whole model: names, config and files."""

    def __init__(self, folder: Path, llm: Path, vision: Path, projector: Path, how: Writing) -> None:
        self.folder, self.llm, self.vision, self.projector, self.how = folder, llm, vision, projector, how
        config = read_json(vision / "config.json")
        self.vision_config = config.get("vision_config", config)
        self.llm_config = read_json(llm / "config.json")
        self.projector_config = read_json(projector / "config.json")
        self.select_layer = how.cfg.model.get("visual_select_layer", SELECT_LAYER)
        self.dtype = torch.float32 if how.fp32 else _dtype_of(Weights(llm))
        if self.projector_config["depth"] != 2:
            raise ConfigError(
                translate(
                    "the projector has {count} layers, and this format is for two: leave out --save-format.",
                    count=self.projector_config["depth"],
                )
            )

    def write(self) -> None:
        """Write the model and all its files."""
        sources = self._sources()
        total = sum(info.num_bytes for _, _, info in sources.values())
        self._write_files()
        with byte_bar(translate("Saving"), total) as advance:

            def load(name: str) -> torch.Tensor:
                read, own, info = sources[name]
                advance(info.num_bytes)
                return self._changed(name, read(own).to(info.dtype))

            write_weights(
                self.folder,
                {name: self._info(name, info) for name, (_, _, info) in sources.items()},
                load,
                max_shard_size=self.how.max_shard_size,
                safe_serialization=self.how.safe_serialization,
            )

    def _sources(self) -> dict[str, _Source]:
        found: dict[str, _Source] = {}
        for folder, kept, rename in (
            (self.llm, "", self.of_llm),
            (self.vision, _VISION, self.of_vision),
            (self.projector, "", self.of_projector),
        ):
            weights = Weights(folder)
            # A folder of CLIP may hold its text encoder too; transformers from 5.0 on writes no prefix.
            kept = kept if any(name.startswith(kept) for name in weights) else ""
            for name, info in weights.infos.items():
                if name.startswith(kept):
                    new = rename(name.removeprefix(kept))
                    found[new] = (weights.__getitem__, name, TensorInfo(self.dtype, info.shape))
        return found

    @abstractmethod
    def of_llm(self, name: str) -> str:
        """The name of a tensor of the language model."""

    @abstractmethod
    def of_vision(self, name: str) -> str:
        """The name of a tensor of the encoder."""

    @abstractmethod
    def of_projector(self, name: str) -> str:
        """The name of a tensor of the projector."""

    def _info(self, name: str, info: TensorInfo) -> TensorInfo:
        return info

    def _changed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    @abstractmethod
    def _write_files(self) -> None:
        """Write the config, the tokenizer and what prepares images."""

    def _write_config(self, config: Mapping[str, Any]) -> None:
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (self.folder / "config.json").write_text(text, "utf-8")


class _Official(_Layout):
    """`LlavaLlamaForCausalLM` or `LlavaMistralForCausalLM` of the package llava."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        family = self.llm_config["model_type"]
        kinds = {text: name for name, text in llava_folder.TEXT_FAMILIES.items()}
        if family not in kinds:
            raise ConfigError(
                translate(
                    "the package llava has no language model of the family {family!r}: write "
                    "--save-format huggingface instead.",
                    family=family,
                )
            )
        self.kind = kinds[family]

    def of_llm(self, name: str) -> str:
        return name

    def of_vision(self, name: str) -> str:
        return f"model.vision_tower.vision_tower.{_VISION}{name}"

    def of_projector(self, name: str) -> str:
        return name.replace("model.", "model.mm_projector.", 1)

    def _write_files(self) -> None:
        copy_other_files(self.llm, self.folder, leave=("README.md", CONFIG_NAME))
        shutil.copyfile(self.vision / "preprocessor_config.json", self.folder / "preprocessor_config.json")
        self._write_config(
            {
                **self.llm_config,
                "architectures": [self.kind],
                "model_type": "llava" if self.kind == "LlavaLlamaForCausalLM" else "llava_mistral",
                "image_aspect_ratio": "pad" if _pads(self.how.cfg) else "square",
                "mm_hidden_size": self.projector_config["visual_hidden_size"],
                "mm_projector_type": f"mlp{self.projector_config['depth']}x_gelu",
                "mm_use_im_patch_token": False,
                "mm_use_im_start_end": False,
                "mm_vision_select_feature": "patch",
                "mm_vision_select_layer": self.select_layer,
                "mm_vision_tower": _named(self.how.cfg, "visual_encoder"),
                llava_folder.ENCODER_CONFIG: self.vision_config,
                "unfreeze_mm_vision_tower": not self.how.cfg.model.get("freeze_visual_encoder", False),
                "use_mm_proj": True,
            }
        )


class _HuggingFace(_Layout):
    """`LlavaForConditionalGeneration` of transformers, with a token for an image."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.llm)
        self.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
        if self.tokenizer.pad_token is None:
            self.tokenizer.add_special_tokens({"pad_token": "<pad>"})
        self.rows = self.llm_config["vocab_size"]
        if len(self.tokenizer) > self.rows:
            self.rows = -(-len(self.tokenizer) // _MULTIPLE) * _MULTIPLE

    def of_llm(self, name: str) -> str:
        return f"language_model.{name}"

    def of_vision(self, name: str) -> str:
        return f"vision_tower.{_VISION}{name}"

    def of_projector(self, name: str) -> str:
        _, number, kind = name.split(".")
        return f"multi_modal_projector.linear_{1 if number == '0' else 2}.{kind}"

    def _is_vocabulary(self, name: str) -> bool:
        return name.endswith(("embed_tokens.weight", "lm_head.weight")) and name.startswith("language_model.")

    def _info(self, name: str, info: TensorInfo) -> TensorInfo:
        if not self._is_vocabulary(name):
            return info
        return TensorInfo(info.dtype, (self.rows, *info.shape[1:]))

    def _changed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not self._is_vocabulary(name) or len(tensor) == self.rows:
            return tensor
        # New tokens begin as the mean of the others; an image takes the place of its token before it is read.
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(self.rows - len(tensor), -1)])

    def _write_files(self) -> None:
        from transformers import LlavaConfig, LlavaProcessor

        has_class = self.vision_config["model_type"] == "clip_vision_model"
        strategy: Any = "default" if has_class else "full"
        image_token: Any = self.tokenizer.convert_tokens_to_ids("<image>")
        text = {**self.llm_config, "vocab_size": self.rows}
        text.pop("architectures", None)
        config = LlavaConfig(
            vision_config=self.vision_config,
            text_config=text,
            image_token_index=image_token,
            projector_hidden_act=self.projector_config["hidden_act"],
            vision_feature_layer=self.select_layer,
            vision_feature_select_strategy=strategy,
            multimodal_projector_bias=self.projector_config["bias"],
            tie_word_embeddings=self.llm_config.get("tie_word_embeddings", False),
            image_seq_length=num_patches(self.vision_config["image_size"], self.vision_config["patch_size"]),
        ).to_dict()
        config |= {"architectures": ["LlavaForConditionalGeneration"]}
        config |= {"dtype": str(self.dtype).removeprefix("torch.")}
        self._write_config(config)
        LlavaProcessor(
            self._image_processor(),
            self.tokenizer,
            patch_size=self.vision_config["patch_size"],
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=int(has_class),
        ).save_pretrained(self.folder)
        generation = self.llm / "generation_config.json"
        if generation.is_file():
            shutil.copyfile(generation, self.folder / generation.name)

    def _image_processor(self) -> Any:
        """The processor of the encoder, which pads images to squares if training did."""
        own = load_image_processor(self.vision)
        if not _pads(self.how.cfg):
            return own
        return llava_folder.padding(own)


def _pads(cfg: Config) -> bool:
    dataset = cfg.get("train_dataloader", {}).get("dataset", {})
    inner = dataset.get("datasets") or [dataset]
    return any(one.get("pad_image_to_square") for one in inner)


def _dtype_of(weights: Weights) -> torch.dtype:
    return next(info.dtype for info in weights.infos.values() if info.dtype.is_floating_point)
