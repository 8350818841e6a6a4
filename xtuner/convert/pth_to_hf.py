"""Write a checkpoint as a folder for transformers or peft; no model is built, no base model needed.

llm.base_model.model.X.lora_A.default.weight  ->  adapter_model.safetensors: base_model.model.X.lora_A.weight
meta["hf_files"], or the config's lora=dict(...)  ->  adapter_config.json

llm.model.norm.weight, ...                    ->  model-0000i-of-0000N.safetensors: model.norm.weight, ...
meta["hf_files"]                              ->  config.json, generation_config.json, the tokenizer
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xtuner.chat.trained_with import CONFIG_NAME
from xtuner.config import Config, load_config
from xtuner.config.internvl import general_config
from xtuner.convert.card import without_local_paths, write_card
from xtuner.convert.internvl import internvl_base, write_whole
from xtuner.convert.llava import is_llava, write_llava
from xtuner.convert.output import new_folder, on_the_way
from xtuner.convert.progress import byte_bar
from xtuner.convert.served import serve_as_trained
from xtuner.convert.trained import About, Cast, Writing, half_dtype, write_adapter, write_model
from xtuner.convert.weights import Weights, parse_size
from xtuner.engine.checkpoints.archive import InFiles
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate
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
    logger.info(translate("Load PTH model from %s"), path)
    checkpoint = load_checkpoint(path, with_optimizer=False, empty=InFiles(beside))
    if is_llava(cfg):
        write_llava(save_dir, checkpoint, how, save_format)
        return "llava"
    tensors, in_adapter = _cast(checkpoint["state_dict"], how), is_adapter(checkpoint["state_dict"])
    kind = "adapter" if in_adapter else "model"
    about = About(base_of(cfg), checkpoint.get("meta", {}).get("hf_files") or {}, cfg.model.get("lora"))
    sources = (path.resolve().parent,) if base is None else (path.resolve().parent, base)
    num_bytes = sum(info.num_bytes for info in (tensors if base is None else Weights(base)).infos.values())
    with new_folder(save_dir, sources=sources, num_bytes=num_bytes) as folder:
        for part in ("adapter",) if in_adapter else ("LLM tokenizer", "LLM"):
            logger.info(translate("Saving %s to %s"), translate(part), save_dir)
        if base is None:
            _write_trained(folder, tensors, about, kind, how)
            return kind
        with on_the_way(folder) as parts:
            trained = parts / "trained"
            _write_trained(trained, tensors, about, kind, how)
            write_whole(trained, base, folder, save_format, how)
    return kind


def _cast(state: Mapping[str, torch.Tensor], how: Writing) -> Cast:
    """The tensors of a checkpoint as they are written."""
    exported = _exported(state, how.path)
    _check_kind(how.cfg, is_adapter(state), how.path)
    tensors = Cast(exported, torch.float32 if how.fp32 else half_dtype(how.cfg, exported), how.path)
    if tensors.half is not None:
        logger.info(translate("Convert LLM to %s"), str(tensors.half).removeprefix("torch."))
    return tensors


def _write_trained(folder: Path, tensors: Cast, about: About, kind: str, how: Writing) -> None:
    """Write what was trained into `folder`: an adapter, or a whole model."""
    folder.mkdir(exist_ok=True)
    safe = how.safe_serialization
    with byte_bar(translate("Saving"), tensors.num_bytes) as advance:
        load = tensors.loader(advance)
        if kind == "adapter":
            write_adapter(folder, tensors, load, about, safe_serialization=safe)
        else:
            limit = how.max_shard_size
            write_model(folder, tensors, load, about, max_shard_size=limit, safe_serialization=safe)
    (folder / CONFIG_NAME).write_text(without_local_paths(how.cfg.text), "utf-8")
    write_card(folder, about.base, kind)
    if kind == "model":
        serve_as_trained(folder)


def _check_kind(cfg: Config, in_adapter: bool, path: Path) -> None:
    if "llm" not in cfg.get("model", {}):
        raise ConfigError(
            translate(
                "{filename}: model.llm is not set; only language models can be converted.",
                filename=cfg.filename,
            )
        )
    lora = any(cfg.model.get(name) for name in ("lora", "vision_lora", "peft_model"))
    if lora != in_adapter:
        what = (
            "{config} trains LoRA, but {path} holds no LoRA weights: give the config of that run."
            if lora
            else "{config} sets no lora, but {path} holds LoRA weights: give the config of that run."
        )
        raise CheckpointError(translate(what, config=cfg.filename, path=path))


def _exported(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under the names that transformers and peft use."""
    foreign = [name for name in state if not name.startswith(PREFIX)]
    if not state:
        raise CheckpointError(translate("{path} holds no weights.", path=path))
    if foreign:
        what = "{path} holds {name!r}, which is not part of a language model."
        raise CheckpointError(translate(what, path=path, name=foreign[0]))
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
