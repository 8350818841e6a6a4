"""The maximum lengths of prompts and answers, and the tokens that end an answer.

context   |<------- prompt, at most prompt_limit ------->|<-- room for an answer -->|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xtuner.errors import ConfigError, DataError
from xtuner.language import translate
from xtuner.model.adapters import virtual_tokens
from xtuner.model.base import base_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def context_length(model: Any) -> int | None:
    """The context length of the model in tokens, or None if its config has none; without virtual tokens."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return length - virtual_tokens(model) if isinstance(length, int) and length > 0 else None


def prompt_limit(context: int | None, max_new_tokens: int) -> int | None:
    """The maximum length of a prompt; an answer gets room for up to a quarter of the context."""
    return None if context is None else context - max(1, min(max_new_tokens, context // 4))


def answer_room(context: int | None, prompt: Sequence[int], max_new_tokens: int) -> int:
    """The maximum length of an answer to `prompt`; DataError if the prompt is empty or too long."""
    if not prompt:
        raise DataError(translate("the prompt is empty: there is nothing to answer"))
    if max_new_tokens < 1:
        raise ConfigError(
            translate("max_new_tokens is {count}, but must be at least 1", count=max_new_tokens)
        )
    if context is None:
        return max_new_tokens
    if len(prompt) >= context:
        what = "the prompt has {count} tokens; the model's context holds {context}"
        raise DataError(translate(what, count=len(prompt), context=context))
    return min(max_new_tokens, context - len(prompt))


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The end-of-turn tokens in the settings of tokenizer and model."""
    found = {tokenizer.eos_token_id}
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        ends = getattr(config, "eos_token_id", None)
        found |= set(ends) if isinstance(ends, (list, tuple)) else {ends}
    return {int(i) for i in found if i is not None}


def stretches_positions(model: Any) -> bool:
    """Whether rotary positions change with the length of the longest row."""
    return _rope(model).get("rope_type") in ("longrope", "dynamic")


def positions_change_at(model: Any) -> int | None:
    """The length at which rotary positions change for all tokens, or None if they never do."""
    if not stretches_positions(model):
        return None
    config = base_model(model).config.get_text_config()
    length = _rope(model).get("original_max_position_embeddings")
    return length or getattr(config, "original_max_position_embeddings", None) or context_length(model)


def _rope(model: Any) -> dict[str, Any]:
    found = getattr(base_model(model).config.get_text_config(), "rope_parameters", None)
    return found if isinstance(found, dict) else {}
