"""Calls of a model's forward with a KV cache, which begins with the virtual tokens of an adapter.

transformers up to 5.23, remote code     forward(past_key_values=...)    output.past_key_values
transformers since 5.24                  forward(cache=...)              output.cache
Mamba, xLSTM                             forward(cache_params=...)       output.cache_params
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from xtuner.generation.growing_cache import let_grow
from xtuner.model import prompts
from xtuner.model.adapters import virtual_tokens
from xtuner.model.base import base_model

# The first of these that a forward takes.
_CACHES = ("cache", "past_key_values", "cache_params")


class CachedForward:
    """Calls the forward of `model` with the arguments that its family accepts."""

    def __init__(self, model: Any) -> None:
        self._model = model
        names = inspect.signature(base_model(model).forward).parameters
        self.cache_name = next((name for name in _CACHES if name in names), _CACHES[1])
        self._only_last = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
        self.takes_positions = "position_ids" in names

    @property
    def num_virtual(self) -> int:
        """How many virtual tokens a cache has before the tokens that were read."""
        return virtual_tokens(self._model)

    def __call__(
        self,
        inputs: Mapping[str, torch.Tensor],
        cache: Any,
        *,
        all_logits: bool = False,
        to_decoder: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, Any]:
        """The logits [rows, vocabulary] after the last token of each row, and the cache, which can grow.

        With `all_logits` the logits after each token, [rows, tokens, vocabulary]. `to_decoder`: further
        arguments of the decoder, besides those of the whole model.
        """
        model = self._model
        if self.num_virtual:
            # peft's forward would put them before these tokens as well.
            model = base_model(model)
            cache = prompts.as_cache(self._model) if cache is None else cache
        kept = {} if all_logits else self._only_last
        with _adding(base_model(self._model), to_decoder):
            out = model(**inputs, **{self.cache_name: cache}, use_cache=True, **kept, **more)
        # New outputs warn when the old name is read.
        cache = out.cache if hasattr(out, "cache") else getattr(out, self.cache_name, None)
        let_grow(cache)
        return (out.logits if all_logits else out.logits[:, -1]).float(), cache


@contextmanager
def _adding(model: Any, arguments: Mapping[str, Any] | None) -> Iterator[None]:
    """A context in which the decoder of `model` gets further arguments."""
    if not arguments:
        yield
        return

    def add(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return given, {**named, **arguments}

    handle = model.get_decoder().register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
