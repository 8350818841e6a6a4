"""The peak that xtuner.estimate says of a case, to compare with what is counted."""

from __future__ import annotations

from on_paper.models import Case
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Training


def estimated(case: Case, layers: int | None = None) -> int:
    """Bytes on the GPU, without its context and what the allocator has free."""
    full = case.method == "full"
    run = Training(
        tokens=case.tokens,
        weight_bytes=4 if full else 2,
        bits=4 if case.method == "qlora" else 16,
        double_quant=case.double_quant,
        rank=0 if full else case.rank,
        dropout=case.dropout > 0,
        recompute=case.recompute,
        fused_step=case.fused_step,
    )
    shape = read_shape(case.sizes(layers))
    assert shape is not None
    memory = estimate(shape, run)
    kept = sum(size for name, size in memory.kept.items() if name != "process")
    moments = memory.moments.values()
    return kept + max(sum(size for name, size in moment.items() if name != "allocator") for moment in moments)
