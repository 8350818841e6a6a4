"""The loss that keeps the experts of a mixture equally busy.

    loss of a forward pass   sum of cross entropies + weight * balance * trained tokens of the pass
    of an update             all of these / trained tokens of the update

So an update has the mean of its passes' balances, weighted by their trained tokens, as transformers' loss has
the one of a batch. Balance is no sum over tokens: it is a product of two means over all tokens of one forward
pass on one process. Two batches of four samples are therefore not quite one of eight, here as elsewhere.
"""

from __future__ import annotations

from typing import Any

from xtuner.log import say_once
from xtuner.model.base import base_model


def balance_weight(llm: Any) -> float:
    """What the balance of experts is multiplied by in the loss; 0 where the config does not ask for it."""
    base = base_model(llm)
    config = base.config.get_text_config()
    if not getattr(config, "output_router_logits", False):
        return 0.0
    return getattr(config, "router_aux_loss_coef", None) or getattr(config, "aux_loss_coef", None) or 0.0


def log_missing_balance(llm: Any, method: str) -> None:
    """Log where the config of `llm` asks for the balance of experts, which `method` does not add."""
    if balance_weight(llm):
        what = "{method} does not add the loss that balances experts, which the model's config asks for"
        say_once(what, method=method)
