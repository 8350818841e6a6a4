"""The methods that new-cfg proposes.

dpo    LoRA or QLoRA, whichever fits, on pairs of answers      dpo_lora, dpo_qlora    one of them
                                                                dpo_full               all weights
grpo   the same from rewards, on prompts                       grpo_lora, grpo_qlora, grpo_full
"""

from __future__ import annotations

METHODS = (
    *("qlora", "lora", "full", "dpo", "dpo_lora", "dpo_qlora", "dpo_full"),
    *("grpo", "grpo_lora", "grpo_qlora", "grpo_full"),
)


def prefers(method: str | None) -> bool:
    """Whether the method trains on pairs of answers."""
    return method is not None and method.startswith("dpo")


def rewards(method: str | None) -> bool:
    """Whether the method learns from rewards of sampled answers."""
    return method is not None and method.startswith("grpo")


def trains_all(method: str | None) -> bool:
    """Whether the method trains all weights, not an adapter."""
    return method is not None and method.endswith("full")


def quantises(method: str | None) -> bool:
    """Whether the base is loaded in 4 bits."""
    return method is not None and method.endswith("qlora")
