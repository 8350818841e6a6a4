"""Speed of training in tokens and floating-point operations.

tokens_per_sec          tokens without padding
trained_tokens_per_sec  supervised tokens
fill                    tokens as a fraction of a full batch
tflops                  10^12 operations a second, of the dense transformer of the constructor
mfu                     operations that this training needs, as a fraction of the device's peak (model FLOPs
                        utilisation, Chowdhery et al. 2022, arXiv 2204.02311, appendix B)
hfu                     the same including recomputation (hardware FLOPs utilisation)
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xtuner import devices
from xtuner.engine.hooks.hook import Hook
from xtuner.estimate.shape import read_shape
from xtuner.estimate.speed import card_rate, flops_per_token
from xtuner.estimate.training import Training
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.packed import boundaries_of
from xtuner.model.recompute import recomputes
from xtuner.model.trained_layers import trained_part
from xtuner.utils.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class ThroughputHook(Hook):
    """Records the speed of every iteration, per process.

    `tflops` counts as Narayanan et al. 2021 (Megatron-LM, appendix) do for a dense transformer whose weights
    are all trained: s tokens in a sequence, hidden size h, L layers, vocabulary V, MLP ratio m,

        (3 + recompute) L (8 s h^2 + 4 s^2 h / (1 + causal) + 6 m s h^2) + 6 s h V

    mfu and hfu count the operations of this run: frozen weights have no gradient, the head runs on supervised
    tokens only. Attention is within packed samples, so packs are counted by their samples.
    """

    priority = 55

    def __init__(
        self,
        use_activation_checkpointing: bool | None = None,
        hidden_size: int | None = None,
        num_layers: int | None = None,
        vocab_size: int | None = None,
        mlp_ratio: float | None = None,
        is_casual: bool | None = None,
    ):
        # None and 0: read from the model's config.
        self.recompute: float | None = use_activation_checkpointing
        self.hidden_size = hidden_size or 0
        self.num_layers = num_layers or 0
        self.vocab_size = vocab_size or 0
        self.mlp_ratio = mlp_ratio or 0.0
        self.is_causal = True if is_casual is None else is_casual

    def before_train(self, runner: Run) -> None:
        llm = runner.model.llm
        config = llm.config.get_text_config()
        if self.recompute is None:
            self.recompute = recomputes(llm)
        self.hidden_size = self.hidden_size or config.hidden_size
        self.num_layers = self.num_layers or config.num_hidden_layers
        self.vocab_size = self.vocab_size or config.vocab_size
        inner = getattr(config, "intermediate_size", None) or 4 * self.hidden_size
        if isinstance(inner, list):  # one for each layer: Gemma 3n
            inner = sum(inner) / len(inner)
        self.mlp_ratio = self.mlp_ratio or inner / self.hidden_size
        self._shape = read_shape({**config.to_dict(), "model_type": config.model_type})
        self._work: Training | None = None
        self._peak = peak_rate(runner.device, runner.optim_wrapper)
        if self._peak and self._shape:
            logger.info(
                translate("mfu counts the operations that training needs, hfu also recomputed ones, as "
                "shares of %.3g TFLOP/s%s"),
                self._peak / 1e12, translate(", measured here") if runner.device.type == "cpu" else "",
            )  # fmt: skip
        self._last = time.perf_counter()

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        data = data_batch["data"]
        lengths = np.diff(boundaries_of(data)).tolist()
        passed *= runner.world.sequence_size
        trained = int((data["labels"] != IGNORE_INDEX).sum()) if "labels" in data else 0
        full = runner.forecast.training.tokens if runner.forecast else data["input_ids"].numel()
        runner.history.record("tokens_per_sec", sum(lengths) / passed)
        runner.history.record("trained_tokens_per_sec", trained / passed)
        runner.history.record("fill", sum(lengths) / full)
        runner.history.record("tflops", sum(map(self._operations, lengths)) / passed / 1e12)
        if self._peak and self._shape:
            # Not before the first batch, when hooks have chosen what is trained.
            self._work = self._work or self._work_of(runner.model)
            share = trained / max(1, sum(lengths))
            for name, way in (("mfu", "none"), ("hfu", self._work.recompute)):
                work = replace(self._work, recompute=way, trained_share=share)
                needed = sum(n * flops_per_token(self._shape, work, n) for n in lengths)
                runner.history.record(name, needed / passed / self._peak)

    def _work_of(self, model: Any) -> Training:
        trains = any(p.requires_grad for p in model.llm.parameters())
        way = "full" if self.recompute == 1 else "selective" if self.recompute else "none"
        if model.uses_adapter or not trains:
            return Training(tokens=0, rank=1, recompute=way)
        return Training(tokens=0, part=trained_part(model.llm), recompute=way)

    def _operations(self, s: int) -> float:
        h = self.hidden_size
        attention = 4 * s * s * h / (1 + self.is_causal)
        layer = 8 * s * h * h + attention + 6 * self.mlp_ratio * s * h * h
        return (3 + (self.recompute or 0)) * self.num_layers * layer + 6 * s * h * self.vocab_size


def peak_rate(device: torch.device, optim_wrapper: Any) -> float | None:
    """The peak operations per second of the device: a card's by its maker, a CPU's by one matrix product."""
    if device.type != "cpu":
        return card_rate(devices.name_of(device))
    with optim_wrapper.autocast():
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    a = torch.ones(768, 768, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 768**3 / min(seconds)
