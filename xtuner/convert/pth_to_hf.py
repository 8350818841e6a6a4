"""Write a checkpoint as a folder for transformers or peft; no model is built, no base model needed.

llm.base_model.model.X.lora_A.default.weight  ->  adapter_model.safetensors: base_model.model.X.lora_A.weight
meta["hf_files"], or the config's lora=dict(...)  ->  adapter_config.json

llm.model.norm.weight, ...                    ->  model-0000i-of-0000N.safetensors: model.norm.weight, ...
meta["hf_files"]                              ->  config.json, generation_config.json, the tokenizer
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xtuner.chat.trained_with import CONFIG_NAME
from xtuner.config import Config, load_config
from xtuner.config.internvl import general_config
from xtuner.convert.card import without_local_paths, write_card
from xtuner.convert.internvl import internvl_base, write_whole
from xtuner.convert.llava import Writing, is_llava, write_llava
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.served import serve_as_trained
from xtuner.convert.trained import About, Cast, half_dtype, write_adapter, write_model
from xtuner.convert.weights import parse_size
from xtuner.engine.checkpoints.archive import InFiles
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.errors import CheckpointError, ConfigError
from xtuner.log import logger
from xtuner.model.state import PREFIX, adapter_state_dict, hf_state_dict, is_adapter


def pth_to_hf(
    config: str | Path | Config,
    pth_model: str | Path,
    save_dir: str | Path,
    fp32: bool = False,
    max_shard_size: str | int = "2GB",
    safe_serialization: bool = True,
    cfg_options: dict[str, Any] | None = None,
    save_format: str = "xtuner",
) -> str:
    """Write the checkpoint `pth_model` of `config`'s run as a folder; returns `"adapter"` or `"model"`.

    Weights are bf16 if the run was, else fp16; `fp32` keeps 32 bits. A LLaVA (`"llava"`) and an InternVL are
    written in the `save_format` "xtuner", "huggingface" or "official". CheckpointError if config and
    checkpoint are not of the same run.
    """
    named = config if isinstance(config, Config) else load_config(Path(config).expanduser(), cfg_options)
    cfg = general_config(named)  # of InternVL_V1_5
    parse_size(max_shard_size)
    path = Path(pth_model).expanduser()
    how = Writing(cfg, path, fp32, max_shard_size, safe_serialization)
    beside = next(folder for folder in Path(save_dir).expanduser().absolute().parents if folder.is_dir())
    is_whole = save_format != "xtuner" and not is_llava(cfg)
    base = internvl_base(base_of(cfg), save_format, cfg.filename) if is_whole else None
    logger.info("Load PTH model from %s", path)
    checkpoint = load_checkpoint(path, with_optimizer=False, empty=InFiles(beside))
    if is_llava(cfg):
        write_llava(save_dir, checkpoint, how, save_format)
        return "llava"
    if base is None:
        return _write_trained(save_dir, checkpoint, how)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".whole-") as parts:
        trained = Path(parts) / "trained"
        kind = _write_trained(trained, checkpoint, how)
        shards, safe = max_shard_size, safe_serialization
        write_whole(trained, base, save_dir, save_format, max_shard_size=shards, safe_serialization=safe)
    return kind


def _write_trained(save_dir: str | Path, checkpoint: Mapping[str, Any], how: Writing) -> str:
    """Write what was trained: an adapter, or a whole model; returns which."""
    cfg, path = how.cfg, how.path
    state = _exported(checkpoint["state_dict"], path)
    in_adapter = is_adapter(checkpoint["state_dict"])
    _check_kind(cfg, in_adapter, path)
    tensors = Cast(state, torch.float32 if how.fp32 else half_dtype(cfg, state), path)
    if tensors.half is not None:
        logger.info("Convert LLM to %s", str(tensors.half).removeprefix("torch."))
    about = About(base_of(cfg), checkpoint.get("meta", {}).get("hf_files") or {}, cfg.model.get("lora"))
    sources, safe = (path.resolve().parent,), how.safe_serialization
    with new_folder(save_dir, sources=sources, num_bytes=tensors.num_bytes) as folder:
        with byte_bar("Saving", tensors.num_bytes) as advance:
            load = tensors.loader(advance)
            if in_adapter:
                logger.info("Saving adapter to %s", save_dir)
                write_adapter(folder, tensors, load, about, safe_serialization=safe)
            else:
                logger.info("Saving LLM tokenizer to %s", save_dir)
                logger.info("Saving LLM to %s", save_dir)
                limit = how.max_shard_size
                write_model(folder, tensors, load, about, max_shard_size=limit, safe_serialization=safe)
        (folder / CONFIG_NAME).write_text(without_local_paths(cfg.text), "utf-8")
        write_card(folder, base_of(cfg), "adapter" if in_adapter else "model")
        if not in_adapter:
            serve_as_trained(folder)
    return "adapter" if in_adapter else "model"


def _check_kind(cfg: Config, in_adapter: bool, path: Path) -> None:
    if "llm" not in cfg.get("model", {}):
        raise ConfigError(f"{cfg.filename}: model.llm is not set; only language models can be converted.")
    lora = any(cfg.model.get(name) for name in ("lora", "vision_lora", "peft_model"))
    if lora != in_adapter:
        says, has = ("trains LoRA", "no LoRA weights") if lora else ("sets no lora", "LoRA weights")
        raise CheckpointError(f"{cfg.filename} {says}, but {path} holds {has}: give the config of that run.")


def _exported(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under the names that transformers and peft use."""
    foreign = [name for name in state if not name.startswith(PREFIX)]
    if foreign or not state:
        what = f"{foreign[0]!r}, which is not part of a language model" if foreign else "no weights"
        raise CheckpointError(f"{path} holds {what}.")
    return adapter_state_dict(state) if is_adapter(state) else _without_aliases(hf_state_dict(state))


def _without_aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with each tensor in memory once: tied embeddings keep their first name, as in saved models."""
    seen: dict[tuple, str] = {}
    for name, tensor in state.items():
        seen.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.dtype), name)
    return {name: state[name] for name in seen.values()}


def base_of(cfg: Config) -> str | None:
    """The base model as the config names it."""
    name = cfg.model.llm.get("pretrained_model_name_or_path")
    return None if name is None else str(name)
