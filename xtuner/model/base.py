"""The parts of a loaded model: its base below an adapter, decoder and head, layers, embeddings."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from xtuner.families import family_of
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model import mapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def base_model(model: Any) -> Any:
    """The model below a peft adapter; `model` itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def device_of(model: Any) -> torch.device:
    """The device for inputs."""
    # Offloaded weights are on "meta" until their layer runs.
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def keeps_logits(llm: Any) -> bool:
    """Whether the model's forward can compute the head at given positions only."""
    base = base_model(llm)
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def decoder_and_head(llm: Any) -> tuple[Any, torch.nn.Linear] | None:
    """Decoder and head of a model if its logits are exactly `head(decoder(...))`, else None."""
    if getattr(getattr(llm, "active_peft_config", None), "is_prompt_learning", False):
        return None
    base = base_model(llm)
    head = base.get_output_embeddings()
    plain = family_of(base.config).plain_head and type(head) is torch.nn.Linear
    return (base.get_decoder(), head) if plain else None


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The layers of a transformer: those named in its family's row, else its longest list of modules."""
    base = base_model(model)
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [m for m in base.modules() if type(m).__name__ in names]
    if found:
        return found
    lists = [list(m) for m in base.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])


@torch.no_grad()
def resize_embeddings(llm: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Add rows for tokens of `tokenizer`, padded to a multiple of 64; returns whether any were missing.

    New rows are the mean of the old ones.
    """
    old = llm.get_input_embeddings().num_embeddings
    if len(tokenizer) <= old:
        return False
    ends = [x for x in (llm.get_input_embeddings(), llm.get_output_embeddings()) if x is not None]
    counts = [len(layer.weight) for layer in ends]  # Llama 3.2 Vision's differ
    for layer in ends:
        layer.to(mapped.wanted_dtype(layer.weight))  # the mean is computed in the precision of training
    llm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    for layer, count in zip((llm.get_input_embeddings(), llm.get_output_embeddings()), counts, strict=False):
        for name in ("weight", "bias"):
            rows = getattr(layer, name, None)
            if rows is not None:
                rows[count:] = rows[:count].float().mean(0).to(rows.dtype)
    logger.info(
        translate(
            "Token embeddings are resized from {old} to {new}.",
            old=old,
            new=llm.get_input_embeddings().num_embeddings,
        )
    )
    return True
