"""What one layer of Llama 3.1 8B with LoRA moves, per token, where `torch.compile` fuses it: no GPU needed.

    python benchmarks/compiled_layer.py          some minutes

Inductor plans its kernels for a CPU here and counts what each reads and writes; it divides the
same graph much alike for a GPU. Two lengths give the part that grows with tokens. Products and attention are
those of libraries. `gpu_on_paper.py --by-op` has the same numbers of XTuner's kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

LENGTHS = (64, 128)
TOKENS, LAYERS = 16_384, 32


class Adapted(nn.Module):
    """A frozen layer with LoRA and dropout, as peft writes it."""

    def __init__(self, base: nn.Linear, rank: int = 64, rate: float = 0.1) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both products."""
        return self.base(x) + self.b(self.a(self.dropout(x))) * 0.25


def build() -> tuple[nn.Module, nn.Module]:
    """The layer in bf16, with adapters in fp32, and its rotary embedding."""
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama

    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8}
    llama = LlamaConfig(num_attention_heads=32, attn_implementation="sdpa", **sizes)
    layer: Any = modeling_llama.LlamaDecoderLayer(llama, 0).to(torch.bfloat16).requires_grad_(False)
    for module in (layer.self_attn, layer.mlp):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Adapted(child))
    return layer.train(), modeling_llama.LlamaRotaryEmbedding(llama)


def count(tokens: int) -> dict[str, tuple[int, int]]:
    """Kernels and bytes of forward and backward: those that are fused, and those of libraries."""
    found = {"fused": (0, 0), "libraries": (0, 0)}

    def count_bytes(graph: GraphLowering) -> tuple[int, list[Any], list[Any]]:
        for node in graph.scheduler.nodes:
            if not isinstance(node, NopKernelSchedulerNode):
                kind = "libraries" if isinstance(node, ExternKernelSchedulerNode) else "fused"
                kernels, size = found[kind]
                found[kind] = kernels + 1, size + node.get_read_write_buffers_sizes()
        return 0, [], []

    GraphLowering.count_bytes = count_bytes  # type: ignore[method-assign]
    torch._dynamo.reset()
    layer, rotary = build()
    x = torch.randn(1, tokens, 4096, dtype=torch.bfloat16, requires_grad=True)
    positions = rotary(x, torch.arange(tokens)[None])
    compiled = torch.compile(lambda x: layer(x, position_embeddings=positions), fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = compiled(x)
    out.float().sum().backward()
    return found


def main() -> None:
    """Print kernels and bytes of a layer, and those of a whole model."""
    torch._logging.set_logs(inductor_metrics=True)  # else nothing is counted
    config.force_disable_caches = True
    few, more = map(count, LENGTHS)
    for kind, (kernels, size) in more.items():
        per_token = (size - few[kind][1]) / (LENGTHS[1] - LENGTHS[0])
        whole = few[kind][1] + per_token * (TOKENS - LENGTHS[0])
        model = f"{LAYERS * kernels:,} kernels, {LAYERS * whole / 1e9:,.0f} GB"
        print(
            f"{kind}: {kernels} kernels, {per_token / 1e6:.3f} MB a token; "
            f"{LAYERS} layers, {TOKENS:,} tokens: {model}"
        )


if __name__ == "__main__":
    main()
