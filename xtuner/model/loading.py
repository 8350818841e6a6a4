"""Loads a model and a tokenizer from a folder, in a precision that the device supports.

llm config   type=AutoModelForCausalLM.from_pretrained, torch_dtype=float16, quantization_config, ...
decided      dtype       as configured if the device supports it; else bf16, else fp32
             device      this process's own
             attention   ours, for every family that uses transformers' attention interface
             code        the installed family if there is one, else the folder's Python files
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xtuner import dist, llava_folder, loadable
from xtuner.config import build
from xtuner.devices import computes_in_bf16, kind_of
from xtuner.errors import ConfigError, ModelError, XTunerError
from xtuner.estimate.machine import cpu_computes_in_bf16
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model import attention, mapped, own_attention
from xtuner.model.attention_kernels import runs_flash_attention
from xtuner.model.base import resize_embeddings
from xtuner.model.language_part import freeze_the_rest
from xtuner.model.lora import attach_adapter, check_adapter_folder, check_is_all, check_writes_text
from xtuner.model.quantization import (
    bitsandbytes_config,
    check_bits,
    is_quantized,
    keep_4bit_weights_unpacked,
    keep_weights_that_are_read,
    log_unquantized_experts,
    repack_whole_blocks_alone,
    set_fields_for_quantized,
    widening,
)
from xtuner.model.quiet import silence_known_warnings
from xtuner.model.rope import scale_by_sample
from xtuner.model.tokenizer import load_tokenizer, log_remote_code
from xtuner.model_folder import has_tokenizer, read_json, remote_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


@functools.cache
def register_families() -> None:
    """Register InternLM, InternLM2, the own forms of InternVL and LLaVA, and our attention."""
    import transformers

    from xtuner.model import internlm, internlm2, internvl_chat, official_llava
    from xtuner.model.internlm_tokenizer import register_tokenizers

    transformers.AutoConfig.register("internlm", internlm.InternLMConfig)
    transformers.AutoConfig.register("internlm2", internlm2.InternLM2Config)
    for head in ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"):
        auto: Any = getattr(transformers, "AutoModel" if head == "Model" else f"AutoModel{head}")
        auto.register(internlm.InternLMConfig, getattr(internlm, f"InternLM{head}"))
        auto.register(internlm2.InternLM2Config, getattr(internlm2, f"InternLM2{head}"))
    internvl_chat.register()
    official_llava.register()
    register_tokenizers()
    attention.register_attention()
    silence_known_warnings()


def as_dtype(value: Any) -> torch.dtype | None:
    """The dtype that `value` names (`torch.float16`, "float16", "fp16"); None for None and "auto"."""
    if value is None or value == "auto" or isinstance(value, torch.dtype):
        return None if value == "auto" else value
    name = str(value).removeprefix("torch.")
    dtype = getattr(torch, _DTYPES.get(name, name), None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(
            translate(
                "{value!r} is not a dtype; write torch.float16, torch.bfloat16, torch.float32 or 'auto'",
                value=value,
            )
        )
    return dtype


def compute_dtype(requested: Any, device: torch.device | str | None = None) -> torch.dtype:
    """`requested` (None: 16 bits) if the device computes in it, else the nearest that it does."""
    dtype = as_dtype(requested)
    device = torch.device(device) if device is not None else dist.device()
    if dtype not in (None, torch.float16, torch.bfloat16):
        return dtype
    if device.type == "cpu":
        have = torch.bfloat16 if cpu_computes_in_bf16() else torch.float32
    elif device.type == "meta":
        have = dtype or torch.float32
    else:
        have = dtype or torch.bfloat16
        if have == torch.bfloat16 and not computes_in_bf16(device):
            have = torch.float16
    if dtype is not None and have != dtype:
        say_once(
            "This {device} does not compute in {wanted}: {used} is used instead",
            logging.INFO,
            device=device.type,
            wanted=_short(dtype),
            used=_short(have),
        )
    return have


def load_llm(
    llm_cfg: dict[str, Any],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_position_embeddings: int | None = None,
    full: bool = False,
    text_only: bool = True,
) -> PreTrainedModel:
    """The model of `llm_cfg`, ready for training on this process's device.

    `full`: full fine-tuning, without an adapter. `text_only`: parts for images and audio are frozen.
    """
    register_families()
    factory, kwargs = _factory_and_arguments(llm_cfg)
    path = kwargs.get("pretrained_model_name_or_path")
    if path is None:  # not by from_pretrained; nothing to decide
        llm = factory(**kwargs)
        use_our_attention(llm)
    else:
        trusted = bool(kwargs.get("trust_remote_code"))
        kind = getattr(getattr(factory, "__self__", None), "__name__", "")
        has_other_head = kind in ("AutoModel", *(f"AutoModelFor{head}" for head in loadable.SCORING))
        loadable.check_language_model(path, trust_remote_code=trusted, writes_text=not has_other_head)
        encoder = kwargs.pop("mm_vision_tower", None)
        config = load_config(path, trust_remote_code=trusted, mm_vision_tower=encoder)
        asked = kwargs.get("quantization_config") is not None
        loadable.check_training(config.to_dict(), path, full=full, asked=asked)
        factory = _class_of(factory, config, path, trusted)
        kwargs = set_fields(config, kwargs)
        if max_position_embeddings:
            extend_context(config, max_position_embeddings)
        kwargs = {**kwargs, **_decide(kwargs, config, full, factory), "config": config}
        llm = mapped.load(lambda dtype: call_loader(factory, {**kwargs, "torch_dtype": dtype}, path), kwargs)
        if kwargs["attn_implementation"] is None:  # nothing was asked for
            own_attention.stand_in(llm)
    prepare_for_training(llm, tokenizer, full=full, text_only=text_only)
    return llm


def prepare_for_training(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    full: bool = True,
    text_only: bool = True,
) -> None:
    """Prepare a loaded model: safe 4-bit layers, a row for every token.

    `text_only`: its parts for images and audio are frozen.
    """
    keep_4bit_weights_unpacked(llm)
    if text_only:
        freeze_the_rest(llm)
    if tokenizer is not None and resize_embeddings(llm, tokenizer) and not full:
        say_once(
            "The new embedding rows are neither trained nor saved with the adapter unless model.lora has "
            "modules_to_save with the names of the embedding and the head"
        )


def auto_class_of(config: Any, path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The auto class of transformers for chat with a model or training it on text, by its config."""
    import transformers

    name = loadable.auto_class(config.to_dict(), path, trust_remote_code=trust_remote_code)
    return getattr(transformers, name)


def _class_of(factory: Any, config: Any, path: str, trusted: bool) -> Any:
    """`factory`, or instead of AutoModelForCausalLM the auto class for a model with images or audio."""
    from transformers import AutoModelForCausalLM

    if getattr(factory, "__self__", None) is not AutoModelForCausalLM:
        return factory
    return auto_class_of(config, path, trust_remote_code=trusted).from_pretrained


def _factory_and_arguments(llm_cfg: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if "type" not in llm_cfg:
        raise ConfigError(translate("model.llm has no type; write type=AutoModelForCausalLM.from_pretrained"))
    factory = build(llm_cfg["type"])
    kwargs = {k: build(v, f"model.llm.{k}") for k, v in llm_cfg.items() if k != "type"}
    if "dtype" in kwargs:
        kwargs["torch_dtype"] = kwargs.pop("dtype")
    return factory, kwargs


def _decide(kwargs: dict[str, Any], config: Any, full: bool, factory: Any) -> dict[str, Any]:
    """The arguments of `from_pretrained` that depend on this machine."""
    device = dist.device()
    asked = as_dtype(kwargs.get("torch_dtype"))
    quantization = kwargs.get("quantization_config")
    if quantization is None:
        quantization = widening(config)
    check_bits(quantization, config, device.type)
    quantized = is_quantized(quantization) or getattr(config, "quantization_config", None) is not None
    if quantized and full and not getattr(quantization, "dequantize", False):
        raise ConfigError(
            translate(
                "model.llm.quantization_config without model.lora: quantised weights cannot be "
                "trained; add lora=dict(type=LoraConfig, ...) or remove quantization_config"
            )
        )
    if full and asked in (None, torch.float16):
        if asked is not None:
            say_once(
                "Full fine-tuning: weights are loaded in fp32, which fp16 mixed precision needs", logging.INFO
            )
        dtype = torch.float32
    else:
        dtype = compute_dtype(asked or as_dtype(getattr(config, "dtype", None)), device)
    if quantization is not None and hasattr(quantization, "bnb_4bit_compute_dtype"):
        quantization.bnb_4bit_compute_dtype = compute_dtype(quantization.bnb_4bit_compute_dtype, device)
    if is_quantized(quantization) and hasattr(quantization, "llm_int8_skip_modules"):
        keep_weights_that_are_read(quantization, config)
    if quantized:
        set_fields_for_quantized(config)
    if "device_map" in kwargs and kwargs["device_map"] is not None:
        say_once(
            "device_map={device_map!r}: each process trains on its own device, {device}",
            logging.INFO,
            device=device,
            device_map=kwargs["device_map"],
        )
    stays = mapped.stay_in_files()
    return {
        "torch_dtype": dtype,
        "quantization_config": quantization if is_quantized(quantization) else None,
        "device_map": {"": device} if quantized or not (stays or device.type == "cpu") else None,
        "attn_implementation": _attention_for(kwargs.get("attn_implementation"), config, device, factory),
        "trust_remote_code": False if is_native(config) else kwargs.get("trust_remote_code", False),
        "low_cpu_mem_usage": None,
    }


# Arguments of `from_pretrained` that are fields of configs too.
_ARGUMENTS = {"attn_implementation", "dtype", "quantization_config", "torch_dtype", "trust_remote_code"}


def set_fields(config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` without fields of `config`, which are set there, as in transformers."""
    fields = {k: v for k, v in kwargs.items() if k not in _ARGUMENTS and hasattr(config, k)}
    for name, value in fields.items():
        setattr(config, name, value)
    return {k: v for k, v in kwargs.items() if k not in fields}


def _attention_for(asked: str | None, config: Any, device: torch.device, factory: Any) -> str | None:
    if asked and asked.startswith("flash_attention") and runs_flash_attention(device):
        return asked
    if asked in ("eager", "sdpa"):
        say_once(
            "attn_implementation={asked!r} makes square masks for packed samples; the built-in "
            "attention needs none",
            logging.INFO,
            asked=asked,
        )
        return asked
    if asked and asked != attention.NAME:
        say_once(
            "attn_implementation={asked!r} does not exist on {device}: the built-in attention is "
            "used instead",
            logging.INFO,
            asked=asked,
            device=device.type,
        )
    from transformers import AutoModelForCausalLM

    maker = getattr(factory, "__self__", None)
    model_class: Any = maker
    if not hasattr(maker, "_supports_attention_backend"):
        mapping: Any = getattr(maker, "_model_mapping", AutoModelForCausalLM._model_mapping)
        model_class = mapping.get(type(config), None)
    return attention.NAME if model_class and attention.supports_attention(model_class, config) else None


def call_loader(factory: Any, kwargs: dict[str, Any], path: str) -> PreTrainedModel:
    """The model that `factory` loads from `path`; ModelError if it cannot."""
    given = {k: v for k, v in kwargs.items() if v is not None}
    try:
        llm = factory(**given)
    except (XTunerError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # transformers, safetensors and torch each have their own
        damaged = translate("; a file of weights is damaged or cut off, download it again")
        cure = damaged if type(error).__name__ == "SafetensorError" else ""
        raise ModelError(
            translate(
                "The model {path} cannot be loaded: {kind}: {error}{cure}",
                path=path,
                error=error,
                cure=cure,
                kind=type(error).__name__,
            )
        ) from error
    if "quantization_config" in given:
        mapped.let_go_of_files(llm)
        log_unquantized_experts(llm)
    return llm


def is_native(config: Any) -> bool:
    """Whether the installed code (transformers' or ours) knows the family."""
    from transformers import CONFIG_MAPPING

    return config.model_type in CONFIG_MAPPING


def load_config(
    path: str | Path, *, trust_remote_code: bool = False, mm_vision_tower: str | Path | None = None
) -> Any:
    """The config of a model folder, by installed code if that knows the family.

    `mm_vision_tower`: the image encoder of a folder of the package `llava`, if not the one that it names.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    register_families()
    if llava_folder.is_official(given := _fields(path)):
        from xtuner.model import official_llava

        return official_llava.config_of(given, path, mm_vision_tower)
    if (Path(path) / "config.json").is_file():
        family = given.get("model_type")
        known = family in CONFIG_MAPPING
        if not known:
            loadable.auto_class(given, path, trust_remote_code=trust_remote_code)
        trust_remote_code = trust_remote_code and not known
        log_remote_code([] if known else remote_code(path))
    if mm_vision_tower is not None:
        what = "{path} has its own image encoder: leave out the one that you name, {encoder}"
        raise ConfigError(translate(what, path=path, encoder=mm_vision_tower))
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            translate("The config of the model {path} cannot be read: {error}", path=path, error=error)
        ) from error


def _fields(path: str | Path) -> Mapping[str, Any]:
    """The fields of the config.json of a folder or hub name; none if it cannot be read."""
    from transformers import PreTrainedConfig

    if (Path(path) / "config.json").is_file():
        return read_json(Path(path) / "config.json")
    try:
        return PreTrainedConfig.get_config_dict(str(path))[0]
    except OSError:
        return {}


def extend_context(config: Any, length: int) -> None:
    """Scale rope linearly so that `length` positions fit; a model that has as many is unchanged."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None)
    have = getattr(config, "max_position_embeddings", None)
    if have is None or not isinstance(rope, dict) or "rope_theta" not in rope:
        if have is not None and length <= have:
            return
        raise ConfigError(
            translate(
                "model.max_position_embeddings = {length}: models of the family '{model_type}' have no "
                "rotary positions to scale; remove it",
                length=length,
                model_type=config.model_type,
            )
        )
    kind = rope.get("rope_type", "default")
    factor = rope.get("factor", 1.0) if kind == "linear" else 1.0
    if length <= have * factor:
        return
    if kind not in ("default", "linear"):
        raise ConfigError(
            translate(
                "model.max_position_embeddings = {length}: the model has {have} positions and already "
                "scales its rope by '{kind}'; remove it, or change rope_scaling in the model's "
                "config.json",
                length=length,
                have=have,
                kind=kind,
            )
        )
    config.rope_parameters = {**rope, "rope_type": "linear", "factor": float(math.ceil(length / have))}
    say_once(
        "Rope is scaled linearly by {factor}: from {have} to {length} positions",
        logging.INFO,
        have=have,
        length=length,
        factor=math.ceil(length / have),
    )


def use_our_attention(llm: PreTrainedModel) -> None:
    """Set our attention on a model that was not loaded here, if its family supports it."""
    if attention.supports_attention(type(llm), llm.config):
        llm.set_attn_implementation(attention.NAME)
    else:
        own_attention.stand_in(llm)


def load_for_chat(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: Any = "fp16",
    bits: int | None = None,
    offload_folder: str | None = None,
    trust_remote_code: bool = False,
    mm_vision_tower: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (in eval mode, with `adapter` on it) and tokenizer for generation; `bits` is None, 8 or 4.

    `mm_vision_tower`: as of `load_config`.
    """
    register_families()
    loadable.check_language_model(path, trust_remote_code=trust_remote_code)
    if adapter is not None:
        check_adapter_folder(adapter)
        check_writes_text(adapter)
        check_is_all(adapter, path)
    # An adapter trained with added tokens has the tokenizer for them.
    brings = adapter is not None and has_tokenizer(Path(adapter))
    named = str(adapter) if brings else path
    tokenizer = load_tokenizer(named, trust_remote_code=trust_remote_code)
    config = load_config(path, trust_remote_code=trust_remote_code, mm_vision_tower=mm_vision_tower)
    device = dist.device()
    precision = compute_dtype(as_dtype(dtype) or as_dtype(getattr(config, "dtype", None)), device)
    quantization = bitsandbytes_config(bits, precision, config)
    check_bits(quantization, config, device.type)
    kwargs = {
        "pretrained_model_name_or_path": str(path),
        "config": config,
        "torch_dtype": precision,
        "quantization_config": quantization,
        "device_map": _map_for_chat(device, bits),
        "offload_folder": offload_folder,
        "trust_remote_code": trust_remote_code and not is_native(config),
    }
    if bits or getattr(config, "quantization_config", None) is not None:
        set_fields_for_quantized(config)
    family = auto_class_of(config, path, trust_remote_code=trust_remote_code)
    logger.info(translate("Load LLM from {path}", path=path))
    model: Any = call_loader(family.from_pretrained, kwargs, str(path))
    repack_whole_blocks_alone(model)
    scale_by_sample(model)
    if adapter is not None:
        if brings:
            resize_embeddings(model, tokenizer)
        model = attach_adapter(model, adapter)
        logger.info(translate("Load adapter from {adapter}", adapter=adapter))
    return model.eval(), tokenizer


def _map_for_chat(device: torch.device, bits: int | None) -> Any:
    """The `device_map` of a model that answers: a single process may use all devices of the kind."""
    if kind_of(device).many_devices and dist.world_size() == 1:
        return "auto"
    return {"": device} if bits or device.type != "cpu" else None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
