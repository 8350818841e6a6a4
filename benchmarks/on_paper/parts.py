"""Which part of a training step an operator belongs to, by the code that calls it.

forward      the innermost function on the stack that is known here
backward     that too; where torch's own code runs alone, the part that made its node in the forward pass
"""

from __future__ import annotations

import re
import sys
from types import CodeType

import torch

# Operators that several parts call.
_OPERATORS = {
    "dequantize_4bit": "4-bit weights",
    "dequantize_blockwise": "4-bit weights",
    "dequantize_nested": "4-bit weights",
    "masked": "dropout",
    "mask_": "dropout",
}
# File, function, part.
_CODE = [
    (r"xtuner/model/(fused|kernels)/norm", "", "norm"),
    (r"xtuner/model/(fused|kernels)/rotary", "", "rotary"),
    (r"xtuner/model/(fused|kernels)/dropout", "", "dropout"),
    (r"xtuner/model/fused/linear", "frozen_weight", "4-bit weights"),
    (r"xtuner/model/fused/linear", "", "linear"),
    (r"xtuner/model/fused/layers", "_attention", "attention"),
    (r"xtuner/model/fused/layers", "_mlp", "mlp"),
    (r"xtuner/model/(fused/mlp|kernels/gated)", "", "mlp"),
    (r"xtuner/model/fused/experts", "", "experts"),
    (r"xtuner/model/(loss|kernels/loss)", "", "loss"),
    (r"xtuner/model/attention|on_paper/gpu", "attention|run", "attention"),
    (r"on_paper/gpu", "to_host|from_host|pack|unpack", "host"),
    (r"on_paper/gpu", "_in_16_bits", "cast"),
    (r"xtuner/model/sft", "", "loss"),
    (r"xtuner/engine/optim|torch/optim/|clip_grad", "", "optimizer"),
    (r"nn/modules/dropout", "", "dropout"),
    (r"peft/tuners", "", "linear"),
    (r"bitsandbytes/autograd|on_paper/counter", "gemm_4bit", "4-bit weights"),
    (r"transformers/loss", "", "loss"),
    (r"transformers/.*/modeling_|xtuner/model/internlm2", "Norm", "norm"),
    (r"transformers/.*/modeling_|xtuner/model/internlm2", "rotary|rotate_half|Rotary", "rotary"),
    (r"transformers/.*/modeling_|xtuner/model/internlm2", "MLP", "mlp"),
    (r"transformers/.*/modeling_", "Router|SparseMoe", "router"),
    (r"transformers/(.*/modeling_|integrations/moe)", "[Ee]xpert|grouped", "experts"),
    (r"transformers/.*/modeling_|xtuner/model/internlm2", "Attention", "attention"),
    (r"transformers/.*/modeling_|xtuner/model/internlm2", "Layer", "residual"),
    (r"transformers/.*/modeling_", "CausalLM", "loss"),
    (r"nn/modules/sparse|xtuner/model/host_embedding", "", "embedding"),
]
# By the identity of the code, which is kept so that no other has it.
_known: dict[int, tuple[CodeType, str | None]] = {}


def part_of(name: str) -> str | None:
    """The part of an operator that is called just now; None where only torch's engine is on the stack."""
    if name in _OPERATORS:
        return _OPERATORS[name]
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if id(code) not in _known:  # a code's own hash is slow
            _known[id(code)] = code, _look_up(code)
        part = _known[id(code)][1]
        if part is not None:
            return part or None
        frame = frame.f_back
    return None


def _look_up(code: CodeType) -> str | None:
    """Its part; "" where the search ends, None where it goes on with the caller."""
    if code.co_name in ("_engine_run_backward", "phase") or code.co_filename.endswith("on_paper/update.py"):
        return ""
    function = getattr(code, "co_qualname", code.co_name)
    for file, pattern, part in _CODE:
        if re.search(file, code.co_filename) and re.search(pattern, function):
            return part
    return None


class Nodes:
    """Of each node of the graph, by its number: the part and the layer that made it in the forward pass."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[str | None, str]] = {}
        self._last: tuple[str | None, str] = (None, "")

    def note(self, part: str | None, layer: str) -> None:
        """The node that was made last belongs there."""
        self._made.setdefault(torch.autograd._get_sequence_nr() - 1, (part, layer))

    def current(self) -> tuple[str | None, str]:
        """Part and layer of the node that runs in backward; where that is not known, of the last one."""
        node = torch._C._current_autograd_node()
        found = None if node is None else self._made.get(node._sequence_nr())
        if found is not None:
            self._last = found
            return found
        return None, self._last[1]
