"""The reference model of preference training."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_RANDOM = re.compile(r"drop|jitter|noise")


class AdapterOff:
    """The base of a model with an adapter, without a second copy of any weight."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """A context in which the model runs as the reference: without adapter, dropout, noise and gradients.

        All other code is the same as in training, so that rounding cannot look like a preference.
        """
        was_training = [module.training for module in self._random_modules]
        with torch.no_grad(), self._llm.disable_adapter():
            for module in self._random_modules:
                module.training = False
            try:
                yield
            finally:
                for module, training in zip(self._random_modules, was_training, strict=True):
                    module.training = training

    @functools.cached_property
    def _random_modules(self) -> list[nn.Module]:
        # NEFTune adds its noise after the embedding.
        found = [module for module in self._llm.modules() if _is_random(module)]
        return [*found, self._llm.get_input_embeddings()]


def _is_random(module: nn.Module) -> bool:
    """Whether the module itself, not its children, draws random numbers in training."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rates = (value for name, value in vars(module).items() if _RANDOM.search(name))
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
