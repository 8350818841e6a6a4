"""The balance loss of a mixture of experts.

    loss of a forward pass   sum of cross entropies + weight * balance * supervised tokens of the pass
    of an update             all of these / supervised tokens of the update

So the loss of an update has the mean of the balances of its passes, weighted by their supervised tokens, as
transformers' loss has that of a batch. A balance is not a sum over tokens but a product of two means over all
tokens of one forward pass on one process. So two batches of four samples differ slightly from one of eight.
"""

from __future__ import annotations

from typing import Any

from xtuner.log import say_once
from xtuner.model.base import base_model


def balance_weight(llm: Any) -> float:
    """The weight of the balance of experts in the loss; 0 unless the config enables it."""
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
