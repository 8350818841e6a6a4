"""Speed of training in tokens and floating-point operations."""

from __future__ import annotations

import time
from typing import Any

from xtuner.engine.hooks.hook import Hook


class ThroughputHook(Hook):
    """Records `tokens_per_sec` and `tflops` of every iteration, per process.

    Operations are counted as Narayanan et al. 2021 (Megatron-LM, appendix) count them for a dense
    transformer: s tokens in a row, hidden size h, L layers, vocabulary V, MLP ratio m,

        (3 + recompute) L (8 s h^2 + 4 s^2 h / (1 + causal) + 6 m s h^2) + 6 s h V

    Attention within packed samples is shorter than a row, so packs are counted by their samples.
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
        # None, 0: what the model itself says.
        self.recompute = use_activation_checkpointing
        self.hidden_size = hidden_size or 0
        self.num_layers = num_layers or 0
        self.vocab_size = vocab_size or 0
        self.mlp_ratio = mlp_ratio or 0.0
        self.is_causal = True if is_casual is None else is_casual

    def before_train(self, runner) -> None:
        llm = runner.model.llm
        config = llm.config.get_text_config()
        if self.recompute is None:
            self.recompute = getattr(llm, "is_gradient_checkpointing", False)
        self.hidden_size = self.hidden_size or config.hidden_size
        self.num_layers = self.num_layers or config.num_hidden_layers
        self.vocab_size = self.vocab_size or config.vocab_size
        inner = getattr(config, "intermediate_size", None) or 4 * self.hidden_size
        self.mlp_ratio = self.mlp_ratio or inner / self.hidden_size
        self._last = time.perf_counter()

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        lengths = sample_lengths(data_batch["data"])
        passed *= runner.world.sequence_size
        runner.history.record("tokens_per_sec", sum(lengths) / passed)
        runner.history.record("tflops", sum(map(self._operations, lengths)) / passed / 1e12)

    def _operations(self, s: int) -> float:
        h = self.hidden_size
        attention = 4 * s * s * h / (1 + self.is_causal)
        layer = 8 * s * h * h + attention + 6 * self.mlp_ratio * s * h * h
        return (3 + bool(self.recompute)) * self.num_layers * layer + 6 * s * h * self.vocab_size


def sample_lengths(data: dict[str, Any]) -> list[int]:
    """The length of every sample in a batch, those inside packs one by one, in tokens."""
    if data.get("cumulative_len") is None:
        rows, length = data["input_ids"].shape
        return [length] * rows
    return [int(n) for borders in data["cumulative_len"] for n in borders.diff()]
