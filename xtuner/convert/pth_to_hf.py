"""Write a checkpoint as a folder for transformers or peft; no model is built, no base model needed.

llm.base_model.model.X.lora_A.default.weight  ->  adapter_model.safetensors: base_model.model.X.lora_A.weight
meta["hf_files"], or the config's lora=dict(...)  ->  adapter_config.json

llm.model.norm.weight, ...                    ->  model-0000i-of-0000N.safetensors: model.norm.weight, ...
meta["hf_files"]                              ->  config.json, generation_config.json, the tokenizer
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xtuner.chat.trained_with import CONFIG_NAME
from xtuner.config import Config, build, load_config
from xtuner.convert.card import without_local_paths, write_card
from xtuner.convert.folders import copy_other_files
from xtuner.convert.names import AsFiles, empty_model, has_mapping
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.served import serve_as_trained
from xtuner.convert.weights import parse_size, write_file, write_weights
from xtuner.engine.checkpoints.archive import InFiles
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.errors import CheckpointError, ConfigError
from xtuner.log import logger
from xtuner.model.quiet import silence_known_warnings
from xtuner.model.state import PREFIX, adapter_state_dict, hf_state_dict, is_adapter

_BASE = "base_model.model."
# transformers' names of the language part of a multimodal model. Its other parts have layers of the same
# names, so targets are written with their full names.
_LANGUAGE_PART = {"language_model", "text_model", "text_decoder"}


def pth_to_hf(
    config: str | Path | Config,
    pth_model: str | Path,
    save_dir: str | Path,
    fp32: bool = False,
    max_shard_size: str | int = "2GB",
    safe_serialization: bool = True,
    cfg_options: dict[str, Any] | None = None,
) -> str:
    """Write the checkpoint `pth_model` of `config`'s run as a folder; returns `"adapter"` or `"model"`.

    Weights are bf16 if the run was, else fp16; `fp32` keeps 32 bits. CheckpointError if config and
    checkpoint are not of the same run.
    """
    cfg = config if isinstance(config, Config) else load_config(Path(config).expanduser(), cfg_options)
    parse_size(max_shard_size)
    path = Path(pth_model).expanduser()
    logger.info("Load PTH model from %s", path)
    beside = next(folder for folder in Path(save_dir).expanduser().absolute().parents if folder.is_dir())
    checkpoint = load_checkpoint(path, with_optimizer=False, empty=InFiles(beside))
    state = _exported(checkpoint["state_dict"], path)
    in_adapter = is_adapter(checkpoint["state_dict"])
    _check_kind(cfg, in_adapter, path)
    tensors = _Cast(state, torch.float32 if fp32 else half_dtype(cfg, state), path)
    if tensors.half is not None:
        logger.info("Convert LLM to %s", str(tensors.half).removeprefix("torch."))
    source: _Cast | AsFiles = tensors
    sources = (path.resolve().parent,)
    with new_folder(save_dir, sources=sources, num_bytes=tensors.num_bytes) as folder:
        with byte_bar("Saving", tensors.num_bytes) as advance:

            def load(name: str) -> torch.Tensor:
                advance(source.infos[name].num_bytes)
                return source[name]

            if in_adapter:
                logger.info("Saving adapter to %s", save_dir)
                suffix = "safetensors" if safe_serialization else "bin"
                write_file(folder / f"adapter_model.{suffix}", tensors.infos, load)
                _write_adapter_files(folder, cfg, state, checkpoint.get("meta", {}))
            else:
                logger.info("Saving LLM tokenizer to %s", save_dir)
                logger.info("Saving LLM to %s", save_dir)
                _write_model_files(folder, checkpoint.get("meta", {}), cfg, tensors)
                if has_mapping(folder):
                    source = AsFiles(empty_model(folder), tensors, tensors.infos)
                write_weights(
                    folder,
                    source.infos,
                    load,
                    max_shard_size=max_shard_size,
                    safe_serialization=safe_serialization,
                )
        (folder / CONFIG_NAME).write_text(without_local_paths(cfg.text), "utf-8")
        write_card(folder, base_of(cfg), "adapter" if in_adapter else "model")
        if not in_adapter:
            serve_as_trained(folder)
    return "adapter" if in_adapter else "model"


def _check_kind(cfg: Config, in_adapter: bool, path: Path) -> None:
    if "llm" not in cfg.get("model", {}):
        raise ConfigError(f"{cfg.filename}: model.llm is not set; only language models can be converted.")
    lora = bool(cfg.model.get("lora") or cfg.model.get("peft_model"))
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


def half_dtype(cfg: Config, state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The 16 bit type of a run: bf16 if its weights or settings are, else fp16."""
    set_dtypes = [cfg.model.llm.get("torch_dtype"), cfg.model.llm.get("dtype")]
    set_dtypes.append((cfg.get("optim_wrapper") or {}).get("dtype"))
    dtypes = {tensor.dtype for tensor in state.values()}
    if torch.float16 in dtypes and torch.bfloat16 not in dtypes:
        return torch.float16
    is_bf16 = torch.bfloat16 in dtypes or any("bfloat16" in str(value) for value in set_dtypes)
    return torch.bfloat16 if is_bf16 else torch.float16


@dataclass(frozen=True)
class _Cast(Mapping[str, torch.Tensor]):
    """The state dict with its floats in `dtype`, each cast on access."""

    state: dict[str, torch.Tensor]
    dtype: torch.dtype
    path: Path

    @property
    def half(self) -> torch.dtype | None:
        return self.dtype if self.dtype != torch.float32 else None

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        return {n: TensorInfo(self._dtype_of(t), tuple(t.shape)) for n, t in self.state.items()}

    @property
    def num_bytes(self) -> int:
        return sum(info.num_bytes for info in self.infos.values())

    def _dtype_of(self, tensor: torch.Tensor) -> torch.dtype:
        return self.dtype if tensor.is_floating_point() else tensor.dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.state[name]
        cast = tensor.to(self._dtype_of(tensor))
        if cast.dtype == torch.float16 and not cast.isfinite().all() and tensor.isfinite().all():
            raise CheckpointError(
                f"{self.path}: {name} reaches {tensor.abs().max():.3g}, beyond float16: use --fp32."
            )
        return cast

    def __iter__(self):
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def _write_adapter_files(
    folder: Path, cfg: Config, state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    files, name, base = meta.get("hf_files") or {}, "adapter_config.json", base_of(cfg)
    _write_files(folder, files)
    if name not in files:  # written by a version that did not save it
        _config_from_weights(folder, cfg, state)
    config = _sorted_lists(json.loads((folder / name).read_text("utf-8")))
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    (folder / name).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _config_from_weights(folder: Path, cfg: Config, state: Mapping[str, torch.Tensor]) -> None:
    """Write the adapter's config from the run's config and the names of the weights."""
    silence_known_warnings()
    lora = build(cfg.model.lora, "model.lora")
    trained = {name.split(".lora_")[0].removeprefix(_BASE) for name in state if ".lora_" in name}
    if any(_LANGUAGE_PART & set(name.split(".")) for name in trained):
        lora.target_modules = sorted(trained)
    elif lora.target_modules is None:
        lora.target_modules = sorted({name.rpartition(".")[2] for name in trained})
    lora.task_type = lora.task_type or "CAUSAL_LM"
    _check_rank(lora, state)
    lora.save_pretrained(str(folder))


def _sorted_lists(config: dict[str, Any]) -> dict[str, Any]:
    # peft writes sets in an order that differs from run to run, and a head to save twice.
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(set(config[key]))
    return config


def _check_rank(lora: Any, state: Mapping[str, torch.Tensor]) -> None:
    ranks = {t.shape[0] for name, t in state.items() if ".lora_A" in name or "lora_embedding_A" in name}
    expected = {lora.r, *(lora.rank_pattern or {}).values()}
    if not ranks <= expected:
        raise CheckpointError(
            f"model.lora.r is {lora.r}, but the checkpoint's LoRA weights have rank {sorted(ranks)}: give "
            "the config that this checkpoint was trained with."
        )


def base_of(cfg: Config) -> str | None:
    """The base model as the config names it."""
    name = cfg.model.llm.get("pretrained_model_name_or_path")
    return None if name is None else str(name)


def _write_files(folder: Path, files: Mapping[str, str | torch.Tensor]) -> None:
    for name, content in files.items():
        assert (folder / name).resolve().is_relative_to(folder.resolve()), name
        data = content.encode("utf-8") if isinstance(content, str) else content.numpy().tobytes()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def _write_model_files(folder: Path, meta: Mapping[str, Any], cfg: Config, tensors: _Cast) -> None:
    files: Mapping[str, str | torch.Tensor] = meta.get("hf_files") or {}
    _write_files(folder, files)
    if not files:
        base = Path(base_of(cfg) or "")
        if not (base / "config.json").is_file():
            raise CheckpointError(
                f"{tensors.path} holds no config.json and {str(base)!r} is not a local model folder: set "
                "pretrained_model_name_or_path to the base's folder with --cfg-options."
            )
        copy_other_files(base, folder, leave=("README.md",))
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = str(tensors.dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
