"""Sizes of the blocks in which a model is run, and what of it is recomputed; model and estimate read them."""

from __future__ import annotations

from typing import Any

from xtuner.errors import ConfigError
from xtuner.language import translate

# How much of what layers make forward is made again in backward.
RECOMPUTE = ("none", "selective", "full", "offload")
# Tokens that MLPs with adapters take at a time under "offload": enough for fast products.
TILE = 1024
# Bytes of fp32 logits: of a block of tokens that the loss multiplies with the head at one time, and of the
# part of it whose softmax is in fp32. On a CPU malloc has a block of 16 bits again without asking the system,
# and the part stays in the cache. On a GPU a block of Llama 3's vocabulary has 512 tokens, enough for the
# product to be bound by arithmetic, and a part's kernels run longer than they take to start.
LOSS_BLOCK = {"cpu": 56 * 2**20, "gpu": 256 * 2**20}
SOFTMAX_PART = {"cpu": 4 * 2**20, "gpu": 64 * 2**20}
# Tokens of a block of a large vocabulary's logits: each block reads the whole head.
LOSS_ROWS = 256
# Tokens for which a KV cache has room when it is copied.
CACHE_ROOM = 256
# Answers that are generated at a time for rewards, unless `rollouts.max_running` says.
ANSWERS_AT_ONCE = 64


def cpu_or_gpu(device: str) -> str:
    """The key of the dicts of sizes for a type of torch device: accelerators of all kinds are GPUs here."""
    return "cpu" if device == "cpu" else "gpu"


def loss_block(rows: int, vocab: int, device: str) -> int:
    """Rows whose logits exist at one time: blocks are alike, rounded as model/fused pads them."""
    most = max(LOSS_ROWS, LOSS_BLOCK[cpu_or_gpu(device)] // (4 * vocab)) // 32
    wanted = max(1, -(-rows // 32))
    blocks = -(-wanted // most)
    return -(-wanted // blocks) * 32


def as_recompute(value: Any) -> str | None:
    """The word of RECOMPUTE that `use_activation_checkpointing` means; None where it leaves it open."""
    if isinstance(value, bool):
        return "full" if value else "none"
    if value is None or value == "auto":
        return None
    if value not in RECOMPUTE:
        raise ConfigError(
            translate(
                "model.use_activation_checkpointing is {value!r}; write True (all layers), False "
                "(none), 'selective' (every second layer), 'offload' (all layers, inputs and embedding "
                "on the host), or None (what fits into memory)",
                value=value,
            )
        )
    return value
