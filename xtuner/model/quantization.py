"""Quantised weights: which are quantised on loading, which are not, and the limits of the kernels.

quantization_config   linear layers in 4 or 8 bits; not the head, nor layers whose weight a family's code
                      reads, nor experts that are one parameter
folder in fp8, mxfp4  read as 16 bits: their kernels have no backward
"""

from __future__ import annotations

import importlib.metadata
import logging
from typing import Any

import torch
from packaging.version import Version

from xtuner import loadable
from xtuner.devices import kind_of
from xtuner.errors import ConfigError
from xtuner.extras import pip_install
from xtuner.families import PROJECTORS, family_of, images_of
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model.foreign import is_proven
from xtuner.model.targets import packed_experts

# What stays in full precision in a model that reads images: small parts that every image goes through.
_VISION_PARTS = ("vision_tower", "vision_model", "visual", *PROJECTORS)
_VISION_MODULES = (*_VISION_PARTS, *(f"model.{part}" for part in _VISION_PARTS), "lm_head")


def check_bits(quantization: Any, config: Any, kind: str) -> None:
    """Raise ConfigError for layers of bitsandbytes on a `kind` of device for which it documents none.

    `quantization`: the configured one; `config`: that of the model, which may be quantised already.
    """
    asked = any(getattr(quantization, f"load_in_{bits}bit", False) for bits in (4, 8))
    if not asked and loadable.quantised_by(config.to_dict()) != "bitsandbytes":
        return
    needs = kind_of(kind).for_bits
    if needs is None:
        raise ConfigError(
            translate(
                "bitsandbytes documents no layers in 4 or 8 bits on {device}: use the model in 16 bits (LoRA "
                "without quantization_config, chat without --bits)",
                device=kind,
            )
        )
    for package, lowest in needs.items():
        have = _version(package)
        if have is None or Version(have) < Version(lowest):
            raise ConfigError(
                translate(
                    "layers in 4 and 8 bits on {device} need {package} {lowest}, here is {have}: {install}, "
                    "or use the model in 16 bits (LoRA without quantization_config, chat without --bits)",
                    device=kind,
                    package=package,
                    lowest=lowest,
                    have=have,
                    install=pip_install(f"{package}>={lowest}"),
                )
            )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_quantized(quantization: Any) -> bool:
    """Whether a `quantization_config` quantises weights."""
    if quantization is None:
        return False
    bits = (getattr(quantization, "load_in_4bit", None), getattr(quantization, "load_in_8bit", None))
    return any(bits) or bits == (None, None)


def bitsandbytes_config(bits: int | None, dtype: torch.dtype, config: Any) -> Any:
    """The quantisation for generation with 8 or 4 bits; None if `bits` is None; else ConfigError."""
    if bits is None:
        return None
    if bits not in (4, 8):
        raise ConfigError(translate("bits is {bits}; write 4, 8 or None", bits=bits))
    from transformers import BitsAndBytesConfig

    if bits == 8:
        found = BitsAndBytesConfig(load_in_8bit=True)
    else:
        found = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
        )
    found.llm_int8_skip_modules = None if images_of(config) is None else list(_VISION_MODULES)
    keep_weights_that_are_read(found, config)
    return found


def set_fields_for_quantized(config: Any) -> None:
    """Change fields of `config` with which its family's code would damage quantised weights."""
    for name, value in family_of(config).when_quantized.items():
        setattr(config.get_text_config(), name, value)


def keep_weights_that_are_read(quantization: Any, config: Any) -> None:
    """Do not quantise layers whose weight a kernel of the family reads: it would read packed bytes."""
    if names := family_of(config).weights_read:
        asked = quantization.llm_int8_skip_modules or ["lm_head"]
        quantization.llm_int8_skip_modules = [*asked, *(name for name in names if name not in asked)]
        say_once(
            "Not quantised, because the family's own code reads their weights: {names}",
            logging.INFO,
            names=", ".join(names),
        )


def widening(config: Any) -> Any:
    """A config to dequantise 8-bit and 4-bit floats on loading: their kernels have no backward."""
    method = loadable.quantised_by(config.to_dict())
    if method not in loadable.WIDENED:
        return None
    from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

    say_once(
        "The weights are quantised with {method}; they are read and trained in 16 bits",
        logging.INFO,
        method=method,
    )
    return (Mxfp4Config if method == "mxfp4" else FineGrainedFP8Config)(dequantize=True)


def log_unquantized_experts(llm: Any) -> None:
    """Log that packed experts are not quantised: bitsandbytes quantises only layers."""
    experts = list(packed_experts(llm).values())
    if experts:
        size = sum(parameter.nbytes for parameter in experts) / 1e9
        kept = str(experts[0].dtype).removeprefix("torch.")
        say_once(
            "Only linear layers are quantised: experts are packed here and stay in {kept}, {size:.1f} GB",
            kept=kept,
            size=size,
        )


def keep_4bit_weights_unpacked(llm: torch.nn.Module) -> None:
    """Prevent wrong gradients after an eval forward on CPUs with AVX512_BF16.

    bitsandbytes would repack the weights for an inference kernel that has no backward.
    """
    if kind := next((type(m) for m in llm.modules() if _is_4bit(m) and m.weight.device.type == "cpu"), None):
        is_proven(kind, "gradients on a CPU may be wrong once the model has answered in evaluation mode")
    for module in _repacked(llm):
        module.support_avx512bf16_for_cpu = False


def repack_whole_blocks_alone(llm: torch.nn.Module) -> None:
    """Do not repack 4-bit weights whose sizes the inference kernel for such CPUs does not support.

    It needs rows of whole blocks, 32 at a time; bitsandbytes fails to repack others. These are dequantised at
    each forward, to the same numbers.
    """
    layers = [m for m in _repacked(llm) if m.weight.device.type == "cpu"]
    odd = [m for m in layers if m.in_features % m.weight.blocksize or m.out_features % 32]
    for module in odd:
        module.support_avx512bf16_for_cpu = False
    if odd:
        say_once(
            "{odd} of {layers} layers in 4 bits have sizes that bitsandbytes' kernel for this "
            "CPU lacks: they are dequantised at each forward, which is slower",
            logging.INFO,
            odd=len(odd),
            layers=len(layers),
        )


def _is_4bit(module: Any) -> bool:
    kind = type(module)
    return kind.__module__.startswith("bitsandbytes") and kind.__name__ == "Linear4bit"


def _repacked(llm: torch.nn.Module) -> list[Any]:
    """The layers that bitsandbytes repacks on this CPU."""
    return [m for m in llm.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]
