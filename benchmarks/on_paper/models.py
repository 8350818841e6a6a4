"""The models and runs that are counted.

Case("llama3.1-8b", "qlora", tokens=16384)       one batch of so many packed tokens in an update
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xtuner.recipes.sizes import known_sizes

MODELS = {
    "llama3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "internlm2-7b": "internlm/internlm2-chat-7b",
    "internlm2-1.8b": "internlm/internlm2-chat-1_8b",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
}
METHODS = ("qlora", "lora", "full")


@dataclass(frozen=True)
class Case:
    """A run, one batch of `samples` equally long samples in an update."""

    model: str = "llama3.1-8b"
    method: str = "qlora"
    tokens: int = 16384
    rank: int = 64
    dropout: float = 0.1
    recompute: str = "none"
    samples: int = 2
    double_quant: bool = False
    fused_step: bool = True
    stock: bool = False  # transformers and peft
    pairs: bool = False  # DPO; a pair is two samples, and the model without its adapter the reference

    def sizes(self, layers: int | None = None) -> dict[str, Any]:
        """The model's config.json, with another number of layers where that is asked for."""
        found = dict(known_sizes(MODELS[self.model]) or {})
        return found if layers is None else {**found, "num_hidden_layers": layers}

    @property
    def boundaries(self) -> list[int]:
        """Where samples begin and end."""
        return [self.tokens * i // self.samples for i in range(self.samples + 1)]
