"""A model folder as one GGUF file, for llama.cpp and programs built on it.

    model.layers.0.self_attn.q_proj.weight  ->  blk.0.attn_q.weight     rows in llama.cpp's order of rotation
    model.layers.0.mlp.gate_proj.weight     ->  blk.0.ffn_gate.weight   F16, Q8_0, Q4_K ... (tensor_types.py)
    model.norm.weight                       ->  output_norm.weight      F32, as all vectors
    ...mlp.experts.0.gate_proj.weight, 1, ... ->  blk.0.ffn_gate_exps.weight   [experts, out, in]

Tensors are read and written one by one. The file is read back and compared with the folder (check.py).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from xtuner.atomic import written
from xtuner.convert.choices import K_QUANTS
from xtuner.convert.folders import merged_folder
from xtuner.convert.gguf import tensor_types
from xtuner.convert.gguf.check import attention_window, compare
from xtuner.convert.gguf.tokenizer import add_tokenizer
from xtuner.convert.llama_names import as_llama, head_size
from xtuner.convert.quality import read_text
from xtuner.convert.served import ends_of
from xtuner.convert.weights import Weights
from xtuner.errors import CheckpointError, ConfigError, ModelError
from xtuner.extras import install_extra
from xtuner.families import FAMILIES, family_of
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger
from xtuner.model.loading import load_config
from xtuner.model.tokenizer import load_tokenizer

_EXPERT = re.compile(r"(?P<before>.+\.mlp\.experts)\.(?P<number>\d+)\.(?P<after>.+)")


def to_gguf(
    model: str | Path,
    out: str | Path,
    *,
    kind: str = "f16",
    text: str | Path | None = None,
    check: bool = True,
) -> Path:
    """Write the model folder `model` to the file `out`, or to a file in folder `out`; returns its path.

    `kind`: one of GGUF_TYPES. `text`: a file whose perplexity is measured before and after.
    """
    source = merged_folder(model, "the model")
    config = load_config(source)
    architecture = _architecture(config, source)
    gguf = _need_gguf()
    if kind in K_QUANTS:
        tensor_types.quantiser()  # before anything is read
    context = int(min(config.max_position_embeddings, attention_window(config)))
    words = None if text is None else read_text(text, source, context)
    path = Path(out).expanduser()
    path = path / f"{source.name}-{kind}.gguf" if path.is_dir() else path
    if path.suffix != ".gguf":
        raise ConfigError(
            translate(
                "{out} is neither a folder nor a file name that ends in .gguf: give one of them", out=out
            )
        )
    tokenizer = load_tokenizer(source)
    try:
        with writing(path, translate("the output")), written(path) as part:
            _write(gguf, part, Weights(source), config, tokenizer, architecture, kind)
            if check:
                compare(source, part, kind, words)
    except OSError as error:
        raise CheckpointError(
            translate("{path} cannot be written: {error}", path=path, error=error.strerror or error)
        ) from error
    logger.info(translate("%s: %.1f MB"), path, path.stat().st_size / 1e6)
    return path


def _need_gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            translate("xtuner convert gguf needs the package gguf: {command}", command=install_extra("gguf"))
        ) from error
    return gguf


def _architecture(config: Any, source: Path) -> str:
    # The language part of a multimodal model may be a known family, but is not written separately.
    architecture = None if config.get_text_config() is not config else family_of(config).gguf
    if architecture is None:
        known = [name for name, family in FAMILIES.items() if family.gguf]
        raise ModelError(
            translate(
                "{source} is a model of the family {family!r}; GGUF files are written for {names}. "
                "llama.cpp's own convert_hf_to_gguf.py knows others",
                source=source,
                family=config.model_type,
                names=", ".join(known),
            )
        )
    _check_experts(config, source)
    for setting, reason in _unwritten(config, architecture):
        raise ModelError(
            translate(
                "{source}: {setting} of its config.json cannot be written to GGUF: {reason}",
                source=source,
                setting=setting,
                reason=reason,
            )
        )
    positions = config.max_position_embeddings
    if _rope_kind(config) == "dynamic":
        logger.warning(
            translate("dynamic rope scaling is left out: up to %d tokens it does nothing"), positions
        )
    if (window := attention_window(config)) < positions:
        logger.warning(
            translate(
                "llama.cpp attends to all tokens, not to the last %d: it answers as the folder up to "
                "%d tokens"
            ),
            window,
            window,
        )
    return architecture


def _unwritten(config: Any, architecture: str) -> Iterator[tuple[str, str]]:
    """Settings that change the logits and that GGUF files cannot hold, each with the reason."""
    kind = _rope_kind(config)
    if kind not in ("default", "linear", "dynamic", "llama3", "yarn"):
        yield (
            translate("the rope scaling {kind!r}", kind=kind),
            translate("llama.cpp's own convert_hf_to_gguf.py may know it"),
        )
    if kind == "yarn":
        rope = config.rope_parameters
        for name, usual in _yarn_defaults(rope).items():
            if (value := rope.get(name)) is not None and not math.isclose(value, usual, rel_tol=1e-6):
                yield (
                    translate("{name} = {value} of the yarn scaling", name=name, value=value),
                    translate("llama.cpp computes it as {usual:g}", usual=usual),
                )
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            yield translate("mscale of the yarn scaling"), translate("llama.cpp's Llama has none")
    act = getattr(config, "hidden_act", "silu")
    if act not in ("silu", "swish"):
        yield (
            f"hidden_act = {act!r}",
            translate("llama.cpp's {architecture} has silu", architecture=architecture),
        )
    if not family_of(config).gguf_biases and getattr(config, "attention_bias", False):
        yield (
            "attention_bias = True",
            translate("llama.cpp's {architecture} has no bias after attention", architecture=architecture),
        )


def _rope_kind(config: Any) -> str:
    return (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")


def _yarn_defaults(rope: Mapping[str, Any]) -> dict[str, float]:
    """The values that llama.cpp uses for YaRN's optional parameters (Peng et al. 2023, arXiv 2309.00071)."""
    attention = 0.1 * math.log(max(1.0, rope["factor"])) + 1.0
    return {"beta_fast": 32, "beta_slow": 1, "attention_factor": attention, "truncate": 1}


def _check_experts(config: Any, source: Path) -> None:
    """Raise ModelError if llama.cpp would not compute the experts as the config says."""
    norms = family_of(config).gguf_norms_experts
    if norms is None:
        return
    if bool(config.norm_topk_prob) != norms:
        raise ModelError(
            translate(
                "{source}: norm_topk_prob is {norm_topk_prob}, but llama.cpp assumes {norms}",
                source=source,
                norm_topk_prob=config.norm_topk_prob,
                norms=norms,
            )
        )
    if config.decoder_sparse_step != 1 or config.mlp_only_layers:
        raise ModelError(
            translate(
                "{source}: some layers have no experts, but llama.cpp expects them in every layer",
                source=source,
            )
        )


def _write(
    gguf: Any, path: Path, weights: Weights, config: Any, tokenizer: Any, architecture: str, kind: str
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    try:
        _add_shape(gguf, writer, config, kind)
        rows = next(info.shape[0] for name, info in weights.infos.items() if _is_embedding(name))
        add_tokenizer(gguf, writer, tokenizer, rows, ends_of(weights.folder))
        plan = _plan(gguf, weights, config, architecture, kind)
        for name, (shape, dtype, _) in plan.items():
            raw, size = tensor_types.raw_shape(gguf, shape, dtype), tensor_types.num_bytes(gguf, shape, dtype)
            held_as = numpy.dtype(tensor_types.numpy_type(dtype.name))
            writer.add_tensor_info(name, raw, held_as, size, raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (_, dtype, load) in plan.items():
            writer.write_tensor_data(tensor_types.stored(gguf, name, load(), dtype))
    finally:
        writer.close()


def _add_shape(gguf: Any, writer: Any, config: Any, kind: str) -> None:
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    head = head_size(config)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if family_of(config).gguf_norms_experts is not None:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if shared := getattr(config, "shared_expert_intermediate_size", None):
            writer.add_expert_shared_feed_forward_length(shared)
    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    scaling = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}.get(
        _rope_kind(config)
    )
    if scaling is not None:
        writer.add_rope_scaling_type(scaling)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        if "original_max_position_embeddings" in rope:
            writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))


def _plan(gguf: Any, weights: Weights, config: Any, architecture: str, kind: str) -> dict[str, Any]:
    """Name in the file -> shape, type, and a function that loads the tensor."""
    names = gguf.get_tensor_name_map(_arch_enum(gguf, architecture), config.num_hidden_layers)
    tensors = _tensors(weights, config)
    own_head = not config.tie_word_embeddings and any(name == "lm_head.weight" for name, _, _ in tensors)
    # Of families without experts the setting may be missing.
    experts = getattr(config, "num_experts", 0) or 0
    model = tensor_types.Model(config.num_hidden_layers, experts, is_tied=not own_head)
    plan: dict[str, Any] = {}
    for own, shape, load in tensors:
        if own.endswith("rotary_emb.inv_freq"):
            continue  # computed from the config
        if own == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                translate(
                    "{folder}: GGUF's {architecture} has no tensor for {own}",
                    folder=weights.folder,
                    architecture=architecture,
                    own=own,
                )
            )
        heads = _heads_of(own, config) if architecture == "llama" else 0
        dtype = gguf.GGMLQuantizationType[tensor_types.type_of(name, shape, kind, model)]
        plan[name] = (shape, dtype, functools.partial(_load_rotated, load, heads) if heads else load)
    if config.rope_parameters.get("rope_type") == "llama3":
        factors = _llama3_factors(config)
        plan["rope_freqs.weight"] = (tuple(factors.shape), gguf.GGMLQuantizationType.F32, lambda: factors)
    _log_larger(plan, kind)
    return plan


def _log_larger(plan: Mapping[str, Any], kind: str) -> None:
    """Log how many matrices have another type than K-quants, which have blocks of 256."""
    larger = [dtype.name for shape, dtype, _ in plan.values() if shape[-1] % 256 and dtype.name != "F32"]
    if kind in K_QUANTS and larger:
        logger.warning(
            translate(
                "{count} matrices have rows that are no multiple of 256, and are larger than {kind}: {types}",
                count=len(larger),
                kind=kind,
                types=", ".join(sorted(set(larger))),
            )
        )


def _arch_enum(gguf: Any, architecture: str) -> Any:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)


def _is_embedding(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "tok_embeddings.weight"))


def _heads_of(name: str, config: Any) -> int:
    """The number of heads whose rows are permuted in this tensor; 0 if none are."""
    if ".q_proj." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in name else 0


def _rotated(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """The tensor with the two halves of each head's rows interleaved: 0 1 2 3 -> 0 2 1 3."""
    parts = tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return parts.transpose(1, 2).reshape(tensor.shape)


def _load_rotated(load: Callable[[], torch.Tensor], heads: int) -> torch.Tensor:
    return _rotated(load(), heads)


def _tensors(weights: Weights, config: Any) -> list[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]:
    """All tensors: name in a Llama model, shape, and a function that loads it."""
    found: list[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]] = []
    experts: dict[str, list[str]] = {}
    for name, info in weights.infos.items():
        if match := _EXPERT.fullmatch(name):
            experts.setdefault(f"{match['before']}.{match['after']}", []).append(name)
            continue
        if name.endswith("mlp.shared_expert_gate.weight"):  # [1, width]
            found.append((name, info.shape[1:], functools.partial(_first_row, weights, name)))
            continue
        found += as_llama(name, info.shape, functools.partial(weights.__getitem__, name), config)
    for own, names in experts.items():
        names.sort(key=lambda name: int(_EXPERT.fullmatch(name)["number"]))  # type: ignore[index]
        shape = (len(names), *weights.infos[names[0]].shape)
        found.append((own, shape, functools.partial(_stacked, weights, names)))
    return found


def _stacked(weights: Weights, names: list[str]) -> torch.Tensor:
    return torch.stack([weights[name] for name in names])


def _first_row(weights: Weights, name: str) -> torch.Tensor:
    return weights[name][0]


def _llama3_factors(config: Any) -> torch.Tensor:
    """The divisors of the rotary frequencies, as llama.cpp expects them: unscaled over scaled."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = head_size(config)
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
    return plain / scaled
