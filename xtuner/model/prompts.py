"""Virtual tokens before the text, of prompt tuning, P-tuning and prefix tuning.

    prompt, P-tuning   v v v a b c      logits of v are cut off; a is at position 3
    prefix tuning      (v v v) a b c    v are keys and values of each layer and have no logits

Samples run one beside the other, never packed: each needs its own virtual tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xtuner.errors import ConfigError, ModelError
from xtuner.language import translate
from xtuner.model.adapters import adapter_type, virtual_tokens
from xtuner.model.base import base_model

_IN_CACHE = "PREFIX_TUNING"


def shift(llm: Any) -> int:
    """By how many places logits come later than their tokens."""
    return 0 if adapter_type(llm) == _IN_CACHE else virtual_tokens(llm)


def as_cache(llm: Any) -> Any:
    """A KV cache of the virtual tokens of the active adapter on `llm`."""
    found = llm.get_prompt(batch_size=1)
    if adapter_type(llm) == _IN_CACHE:
        return found
    base = base_model(llm)
    out = base(inputs_embeds=found.to(base.get_input_embeddings().weight.dtype), use_cache=True)
    cache = getattr(out, "cache", None) if hasattr(out, "cache") else getattr(out, "past_key_values", None)
    if cache is None:
        what = "{kind} has no cache of keys and values, in which virtual tokens come before the text"
        raise ModelError(translate(what, kind=type(base).__name__))
    return cache


def without_virtual(output: Any, length: int, columns: np.ndarray | None) -> Any:
    """`output` with the logits of `length` tokens; those at `columns` only are as they are."""
    logits = getattr(output, "logits", None)
    if (
        logits is not None
        and logits.shape[1] > length
        and (columns is None or logits.shape[1] != len(columns))
    ):
        output.logits = logits[:, -length:]
    return output


def recompute_of(llm: Any, asked: str | None) -> str | None:
    """The recomputation `asked` for, which cannot be where virtual tokens are in the cache."""
    if adapter_type(llm) != _IN_CACHE:
        return asked
    if asked not in (None, "none"):
        what = (
            "model.use_activation_checkpointing: prefix tuning keeps its tokens in the cache, which layers "
            "that recompute do not have: set it to False"
        )
        raise ConfigError(translate(what))
    return "none"


def check_whole_sequences(llm: Any) -> None:
    """Raise ConfigError for virtual tokens, since each needs its sequence whole."""
    if virtual_tokens(llm):
        what = "sequence_parallel_size: virtual tokens come before whole sequences: set it to 1"
        raise ConfigError(translate(what))
