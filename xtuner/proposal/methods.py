"""The methods that new-cfg proposes.

dpo    LoRA or QLoRA, whichever fits, on pairs of answers      dpo_lora, dpo_qlora    one of them
"""

from __future__ import annotations

METHODS = ("qlora", "lora", "full", "dpo", "dpo_lora", "dpo_qlora")


def prefers(method: str | None) -> bool:
    """Whether the method trains on pairs of answers."""
    return method is not None and method.startswith("dpo")


def quantises(method: str | None) -> bool:
    """Whether the base is loaded in 4 bits."""
    return method is not None and method.endswith("qlora")
