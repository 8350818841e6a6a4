"""Layers that take turns: a few of them, drawn at random, train for some updates, then others.

    updates 0..19     embeddings, layers 3 and 7, head      interval = 20, num_layers = 2
    updates 20..39    embeddings, layers 0 and 5, head

Layers that rest have neither gradients nor a state of the optimizer. After Pan et al. 2024, arXiv 2403.17919.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from xtuner.engine.hooks.hook import Hook
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.trained_layers import decoder_layers

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class LISAHook(Hook):
    """Trains `num_layers` layers at a time for `interval` updates, and always what is outside of layers."""

    priority = "VERY_HIGH"

    def __init__(self, num_layers: int = 2, interval: int = 20):
        if num_layers < 1 or interval < 1:
            what = "LISAHook: num_layers is {num_layers} and interval {interval}; both must be at least 1"
            raise ConfigError(translate(what, num_layers=num_layers, interval=interval))
        self.num_layers, self.interval = num_layers, interval
        self._drawn: list[int] | None = None

    def before_train(self, runner: Run) -> None:
        if runner.model.uses_adapter:
            raise ConfigError(translate("LISAHook trains whole layers: leave out model.lora"))
        if runner.backend.divides:
            what = "LISAHook frees whole layers: train without --fsdp and --deepspeed"
            raise ConfigError(translate(what))
        self._layers = [
            [p for p in layer.parameters() if p.requires_grad] for layer in decoder_layers(runner.model.llm)
        ]
        if self.num_layers > len(self._layers):
            what = "LISAHook: num_layers is {num_layers}, and the model has {count}"
            raise ConfigError(translate(what, num_layers=self.num_layers, count=len(self._layers)))

    def before_train_iter(self, runner: Run, batch_idx: int, data_batch: Any = None) -> None:
        counts = runner.optim_wrapper.accumulative_counts
        if runner.iter % counts and self._drawn is not None:
            return
        drawn = self.draw(runner.seed, runner.iter // counts // self.interval)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        logger.debug(translate("From iter %d on layers %s train"), runner.iter + 1, drawn)
        state = runner.optim_wrapper.optimizer.state
        for number, parameters in enumerate(self._layers):
            trains = number in drawn
            for parameter in parameters:
                parameter.requires_grad_(trains)
                if not trains:
                    parameter.grad = None
                    state.pop(parameter, None)
        runner.backend.train_others()

    def draw(self, seed: int, period: int) -> list[int]:
        """The layers of a period; the same in a resumed run, and in each of several processes."""
        generator = random.Random(f"{seed} {period}")
        return sorted(generator.sample(range(len(self._layers)), self.num_layers))
