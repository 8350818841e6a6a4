"""Is a GGUF file the model of its folder? Both are run by transformers, one after the other.

folder                      fp32  ->  logits of one prompt, perplexity of a text
file, read by transformers  fp32  ->  the same; the differences are logged, and too large ones an error
"""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import torch

from xtuner.convert.llama_names import head_size
from xtuner.convert.quality import (
    PROMPT_LENGTH,
    Quality,
    Text,
    largest_difference,
    log_loss_of,
    logits_of_model,
    measured,
)
from xtuner.convert.weights import Weights
from xtuner.errors import ModelError
from xtuner.estimate.machine import free_memory
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.loading import load_config

# Settings that do not change the logits.
_IRRELEVANT = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "model_type",
    "transformers_version",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "initializer_range",
}

# The largest difference of logits that rounding explains, as a fraction of the largest logit. Of a small
# random model 4 bits change half of it; another model's logits differ by more than the largest.
_TOLERANCE = {"f16": 0.01, "q8_0": 0.1, "q6_k": 0.25, "q5_k_m": 0.5, "q5_k_s": 0.5}
_TOLERANCE_OF_OTHERS = 1.0


def compare(folder: Path, path: Path, kind: str, text: Text | None = None) -> float | None:
    """The largest difference of logits between folder and file, logged; None if memory is too small.

    The perplexity of `text`, before and after, is logged too.
    """
    needed = 2.5 * 4 * sum(info.num_bytes // info.dtype.itemsize for info in Weights(folder).infos.values())
    free = free_memory()
    if needed > free:
        logger.warning(
            translate("logits not compared: that needs %.1f GB, %.1f GB are free"), needed / 1e9, free / 1e9
        )
        return None
    config = load_config(folder)
    # The file has no attention window: the comparison must fit into the folder's.
    length = int(min(PROMPT_LENGTH, attention_window(config)))
    read = config_of_file(path, config, set(Weights(folder)))
    before = _run(folder, config.vocab_size, length, text, {})
    more = {"gguf_file": path.name, "config": read}
    after = _run(path.parent, config.vocab_size, length, text, more)
    difference, largest = largest_difference(before, after)
    log_loss_of(before, after, text, f"file and folder compared over {length} tokens")
    if not difference <= _TOLERANCE.get(kind, _TOLERANCE_OF_OTHERS) * largest:
        raise ModelError(
            translate(
                "the GGUF file does not equal {folder}: logits differ by {difference:.3g} of "
                "{largest:.3g}{cause}",
                folder=folder,
                difference=difference,
                largest=largest,
                cause=_likely_cause(config, read),
            )
        )
    return difference


def _run(name: Path, vocabulary: int, length: int, text: Text | None, more: dict[str, Any]) -> Quality:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **more).eval()
    found = measured(logits_of_model(model), vocabulary, text, length)
    del model
    gc.collect()
    return found


def attention_window(config: Any) -> float:
    """The shortest attention window of all layers, in tokens; infinite if none has one."""
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ["sliding_attention"]
    return window if window and "sliding_attention" in layers else math.inf


def config_of_file(path: Path, config: Any, names: set[str]) -> Any:
    """The config that transformers reads from the file, completed with settings that its reader ignores."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    read.rope_parameters = config.rope_parameters
    read.head_dim = head_size(config)
    for size in ("moe_intermediate_size", "shared_expert_intermediate_size"):
        if hasattr(config, size):
            setattr(read, size, getattr(config, size))
    if read.model_type == "llama":
        read.attention_bias = any(name.endswith((".q_proj.bias", ".wqkv.bias")) for name in names)
        read.mlp_bias = any(name.endswith(".up_proj.bias") for name in names)
    return read


def _likely_cause(config: Any, read: Any) -> str:
    """The settings that differ between folder and file, as the end of a sentence; "" if none do."""
    theirs = read.to_dict()
    apart = [
        translate(
            "{name} is {value} in its config.json and {other} in the file",
            name=name,
            value=value,
            other=theirs[name],
        )
        for name, value in config.to_dict().items()
        if name in theirs and name not in _IRRELEVANT and not _same(value, theirs[name])
    ]
    return f"; {', '.join(apart)}" if apart else ""


def _same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(x, int | float) for x in (one, other))
    return math.isclose(one, other, rel_tol=1e-5) if numbers else one == other
