"""A base and its LoRA adapter as one model, streamed: one tensor in memory at a time.

    base shards ──read──> W ──+ scaling * B @ A (fp32)──> W', base's dtype ──write──> new shards, index
    config, generation_config, tokenizer, *.py ──copy──>

An adapter that changes only one end of tied embeddings unties them: the output folder then holds
both matrices, as base + adapter have them while they run side by side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from xtuner.convert.compare import compare_logits
from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.lora import (
    EMBEDDINGS,
    HEADS,
    Adapter,
    Change,
    Replace,
    apply_change,
    has_more_tokens,
    plan_changes,
    read_adapter,
)
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import Weights, parse_size, write_weights
from xtuner.errors import ConfigError, ModelError
from xtuner.log import logger
from xtuner.model_folder import has_tokenizer, tokenizer_files

_VISION = "vision_model."


def merge(
    base: str | Path,
    adapter: str | Path,
    save_dir: str | Path,
    max_shard_size: str | int = "2GB",
    device: str = "auto",
    is_clip: bool = False,
    safe_serialization: bool = True,
    check: bool = True,
) -> float | None:
    """Write base + adapter as a model folder; the largest difference of logits, None where not checked.

    The tensors keep the base's dtype. ModelError where the adapter was trained on another base.
    """
    where = _device(device)
    parse_size(max_shard_size)
    base_dir, adapter_dir = model_folder(base, "the base model"), model_folder(adapter, "the adapter")
    lora = read_adapter(adapter_dir)
    weights = Weights(base_dir)
    _refuse_quantised(base_dir, weights)
    plan = _plan(weights, lora, base_dir, is_clip)
    total = sum(info.num_bytes for info in plan.infos.values())
    logger.info("Saving to %s...", save_dir)
    with new_folder(save_dir, sources=(base_dir, adapter_dir), num_bytes=total) as folder:
        with byte_bar("Merging", total) as advance:

            def load(name: str) -> torch.Tensor:
                tensor = weights[plan.source.get(name, name)]
                if name in plan.changes:
                    tensor = apply_change(tensor, plan.changes[name], lora.weights, where)
                advance(plan.infos[name].num_bytes)
                return tensor

            write_weights(
                folder,
                plan.infos,
                load,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
            )
        _write_other_files(base_dir, adapter_dir, folder, plan, is_clip=is_clip)
        return compare_logits(base_dir, adapter_dir, folder, where, is_clip) if check else None


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r}: write auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU here: write auto or cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _refuse_quantised(folder: Path, weights: Weights) -> None:
    config = _read_config(folder)
    if config.get("quantization_config") or any(".quant_state." in name for name in weights):
        raise ModelError(
            f"the weights of {folder} are quantised; an adapter is merged into the original weights. "
            "Name the folder of the model in 16 or 32 bit."
        )


@dataclass(frozen=True)
class _Plan:
    """What is written: tensors in order, what changes them, and which are read under another name."""

    infos: dict[str, TensorInfo]
    changes: dict[str, Change]
    source: dict[str, str]
    untied: bool
    rows: int | None  # of the embedding, where the adapter has more tokens


def _plan(weights: Weights, lora: Adapter, base_dir: Path, is_clip: bool) -> _Plan:
    infos = dict(weights.infos)
    if is_clip:
        infos = {name: info for name, info in infos.items() if name.startswith(_VISION)} or infos
    source: dict[str, str] = {}
    embedding = _end(infos, EMBEDDINGS)
    head = _end(infos, HEADS)
    if embedding and head is None and not is_clip:
        # A tied head has no tensor of its own; the adapter may know it by name all the same.
        name = "output.weight" if "tok_embeddings" in embedding else "lm_head.weight"
        source[name] = embedding
    changes = plan_changes(lora, infos | {name: infos[e] for name, e in source.items()}, str(base_dir))
    ends = [name for name in (embedding, head, *source) if name in changes]
    tied = _read_config(base_dir).get("tie_word_embeddings", head is None)
    untied = bool(ends) and bool(tied) and not lora.config.get("ensure_weight_tying")
    if untied:
        infos |= {name: infos[e] for name, e in source.items()}
        logger.warning(
            "the adapter changes %s of tied embeddings: the merged model holds both matrices", ends
        )
    else:
        for name in source:
            changes.pop(name, None)
    both = [name for name in (embedding, head, *(source if untied else ())) if name]
    rows = _grow(infos, changes, lora, both, base_dir)
    return _Plan(infos, changes, source, untied, rows)


def _grow(
    infos: dict[str, TensorInfo], changes: dict[str, Change], lora: Adapter, ends: list[str], base_dir: Path
) -> int | None:
    """Give embedding and head in `infos` the adapter's rows, where those are more; how many they are."""
    grown = {
        name: lora.weights.infos[change.key].shape
        for name, change in changes.items()
        if isinstance(change, Replace)
        and has_more_tokens(name, lora.weights.infos[change.key].shape, infos[name].shape)
    }
    infos |= {name: TensorInfo(infos[name].dtype, shape) for name, shape in grown.items()}
    if left := [name for name in ends if grown and name not in grown]:
        raise ModelError(
            f"the adapter {lora.folder} was trained with more tokens than {base_dir} has, and holds no new "
            f"rows of {left[0]}: train with both the embedding and the head in modules_to_save"
        )
    return next((shape[0] for shape in grown.values()), None)


def _end(infos: dict[str, TensorInfo], modules: tuple[str, ...]) -> str | None:
    """The tensor of the embedding or of the head, wherever the family puts it."""
    found = [name for name in infos if name.split(".")[-2:-1] and name.split(".")[-2] in modules]
    # Attention and MLP modules of old families are called `output` too, deeper in the tree.
    found = [n for n in found if n.endswith(".weight") and not any(part.isdigit() for part in n.split("."))]
    return found[0] if found else None


def _read_config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json: it is not a model folder.") from None
    except ValueError as e:
        raise ModelError(f"{folder / 'config.json'} is no JSON: {e}") from e


def _write_other_files(
    base_dir: Path, adapter_dir: Path, folder: Path, plan: _Plan, *, is_clip: bool
) -> None:
    copy_other_files(base_dir, folder, leave=("README.md",))
    trained_with = adapter_dir / "xtuner_config.py"
    if trained_with.is_file():
        (folder / trained_with.name).write_bytes(trained_with.read_bytes())
    config = _read_config(base_dir)
    if plan.untied:
        config["tie_word_embeddings"] = False
    if plan.rows is not None:
        for file in tokenizer_files(adapter_dir):
            (folder / file.name).write_bytes(file.read_bytes())
        text = config.get("text_config")
        (text if isinstance(text, dict) else config)["vocab_size"] = plan.rows
    elif has_tokenizer(adapter_dir):
        logger.warning(
            "the adapter brings a tokenizer and no rows for tokens that the base lacks: the merged model has "
            "the base's tokenizer"
        )
    if is_clip and "vision_config" in config:
        config = {
            **config["vision_config"],
            "model_type": "clip_vision_model",
            "architectures": ["CLIPVisionModel"],
        }
    if config != _read_config(base_dir):
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
