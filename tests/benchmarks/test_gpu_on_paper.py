"""A change that costs a GPU is seen here: traffic, launches and peak of whole updates, without a GPU."""

import pytest
from on_paper.estimated import estimated
from on_paper.models import Case
from on_paper.update import count, count_layers

GIB = 2**30
LARGE = Case()
SMALL_MEMORY = Case("llama2-7b", tokens=2048, rank=16, recompute="offload", double_quant=True)
FULL = Case("internlm2-1.8b", "full", tokens=8192, recompute="full")
# With Triton's kernels or plain torch: traffic beside products in GB, launches, host waits, peak in GiB.
# A change that makes them less puts the new numbers here and runs
# `python benchmarks/gpu_on_paper.py --all --write`.
HELD = [
    (LARGE, True, 412.6, 2933, 0, 63.63),
    (SMALL_MEMORY, True, 178.4, 6888, 0, 4.29),
    (FULL, True, 250.7, 2266, 0, 28.34),
    (LARGE, False, 1377.9, 8938, 0, 64.18),
    (SMALL_MEMORY, False, 344.4, 17919, 0, 4.33),
    (FULL, False, 402.1, 5076, 0, 28.34),
]


@pytest.fixture
def use_kernels(request, monkeypatch):
    """The same numbers whether Triton is installed or not."""
    wanted = getattr(request, "param", False)
    if wanted:
        pytest.importorskip("triton")
    monkeypatch.setattr("on_paper.gpu.has_kernels", lambda: wanted)


@pytest.mark.parametrize(
    ("case", "use_kernels", "traffic", "launches", "waits", "peak"),
    HELD,
    indirect=["use_kernels"],
    ids=lambda x: getattr(x, "model", ""),
)
@pytest.mark.usefixtures("use_kernels")
def test_an_update_costs_what_it_did(case, traffic, launches, waits, peak):
    """To 2 percent."""
    counted = count(case)
    work = counted.total()
    found = work.bytes / 1e9, work.launches, work.waits, counted.peak / GIB
    assert found == pytest.approx((traffic, launches, waits, peak), rel=0.02)


@pytest.mark.usefixtures("use_kernels")
def test_few_layers_tell_what_many_do():
    """Layers are alike: the work of ten is known from four and six of them, and so is the peak."""
    case = Case("internlm2-1.8b", tokens=2048, recompute="offload")
    few, whole = count(case, layers=10), count_layers(case, 10)
    assert few.total().bytes == pytest.approx(whole.total().bytes, rel=1e-6)
    assert few.total().launches == pytest.approx(whole.total().launches, rel=1e-6)
    assert few.peak == pytest.approx(whole.peak, rel=1e-6)


@pytest.mark.usefixtures("use_kernels")
@pytest.mark.parametrize("use_kernels", [True], indirect=True, ids=[""])
@pytest.mark.parametrize(
    "case",
    [
        Case("llama2-7b", tokens=2048, rank=16, double_quant=True, recompute="full"),
        Case("llama2-7b", tokens=8192, rank=16, double_quant=True, recompute="full"),
        Case("internlm2-7b", tokens=2048, rank=16, double_quant=True, recompute="offload"),
        Case("qwen3-8b", "lora", tokens=8192, recompute="none"),
        Case("qwen3-8b", tokens=2048, recompute="full", fused_step=False),
        Case("internlm2-1.8b", "full", tokens=16384, recompute="selective"),
        Case("internlm2-1.8b", "full", tokens=8192, recompute="full"),
        Case("llama3.1-8b", "full", tokens=2048, recompute="none"),
        Case("qwen3-30b-a3b", "lora", tokens=8192, recompute="none"),
        Case("qwen3-30b-a3b", "full", tokens=2048, recompute="offload"),
    ],
    ids=lambda c: f"{c.model}-{c.method}-{c.tokens}-{c.recompute}",
)  # fmt: skip
def test_the_estimate_is_the_peak_that_is_counted(case):
    """To 5 percent, of four layers: what a step makes is a larger part of the whole there than in a model."""
    assert estimated(case, 4) == pytest.approx(count_layers(case, 4).peak, rel=0.05)
