"""A frozen embedding that waits in the host's memory, so that the device has room for the rest.

ids [B, T] on the device  ──>  rows of the table, on the host  ──>  [B, T, hidden] on the device

The numbers are the same. What travels are the rows of a batch, once, where the table of Llama 3.1 8B takes
1.05 GB of the 5.7 that the model has in 4 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from xtuner.model.mapped import wanted_dtype


class HostEmbedding(nn.Embedding):
    """An embedding whose table is a plain tensor: it stays where it is and is nobody's parameter."""

    def __init__(self, embedding: nn.Embedding):
        # A parameter would move with the model, and as the first one tell where the model is.
        nn.Module.__init__(self)
        for name in nn.Embedding.__constants__:
            setattr(self, name, getattr(embedding, name))
        self.weight = embedding.weight.data.to("cpu", wanted_dtype(embedding.weight))
        self.train(embedding.training)

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the table for `input`, on the device of `input`."""
        return super().forward(input.to(self.weight.device)).to(input.device)


def tables_on_host(model: nn.Module) -> Iterator[Tensor]:
    """Tables of `model` that are none of its parameters any more."""
    for module in model.modules():
        if isinstance(module, HostEmbedding):
            yield module.weight


def keep_on_host(llm: Any) -> bool:
    """Whether the table of `llm` waits on the host from now on: frozen, and not the head's as well."""
    embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    if type(embedding) is not nn.Embedding or embedding.weight.requires_grad:
        return False
    if head is None or head.weight is embedding.weight:
        return False
    if embedding._forward_hooks or embedding._forward_pre_hooks:  # of others, who hold this very module
        return False
    llm.set_input_embeddings(HostEmbedding(embedding))
    return True
