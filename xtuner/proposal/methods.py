"""The methods that new-cfg proposes.

dpo    LoRA or QLoRA, whichever fits, on pairs of answers      dpo_lora, dpo_qlora    one of them
                                                                dpo_full               all weights
"""

from __future__ import annotations

METHODS = ("qlora", "lora", "full", "dpo", "dpo_lora", "dpo_qlora", "dpo_full")


def prefers(method: str | None) -> bool:
    """Whether the method trains on pairs of answers."""
    return method is not None and method.startswith("dpo")


def trains_all(method: str | None) -> bool:
    """Whether the method trains all weights, not an adapter."""
    return method is not None and method.endswith("full")


def quantises(method: str | None) -> bool:
    """Whether the base is loaded in 4 bits."""
    return method is not None and method.endswith("qlora")
