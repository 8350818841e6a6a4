"""The plan of many processes against measurements of two."""

import sys
from types import SimpleNamespace

import pytest

from xtuner.engine.build import with_recompute
from xtuner.estimate.machine import cpu_computes_in_bf16
from xtuner.estimate.memory import Training
from xtuner.estimate.processes import Division, local_weights, process_memory, traffic
from xtuner.estimate.shape import read_shape
from xtuner.model.sft import SupervisedFinetune
from xtuner.model_folder import read_json

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
FULL = Training(tokens=64, weight_bytes=4, compute_bytes=4, device="cpu")
LORA = Training(tokens=64, weight_bytes=4, compute_bytes=4, rank=4, device="cpu")
QLORA = Training(tokens=64, weight_bytes=4, compute_bytes=4, rank=4, bits=4, double_quant=False, device="cpu")
CASES = {
    "ddp": (FULL, Division("ddp", 2)),
    "fsdp": (FULL, Division("fsdp", 2)),
    "fsdp_qlora": (QLORA, Division("fsdp", 2)),
}


@pytest.fixture(scope="session")
def shape(llama_dir):
    return read_shape(read_json(llama_dir / "config.json"))


@pytest.mark.parametrize("case", CASES)
def test_what_a_process_holds(case, two, shape):
    """Weights, gradients and optimizer state, to the byte; scales of a quantised base are extra."""
    run, division = CASES[case]
    memory, found = process_memory(shape, run, division).device, two[case]["counted"]
    assert memory.moments["step"]["gradients"] == found["gradients"]
    assert memory.kept["optimizer"] == found["optimizer"]
    if run.is_full:
        assert memory.kept["weights"] == found["trained"]
    else:
        assert memory.kept["adapter"] == found["trained"]
        scales = 4 * sum(x.weights for x in shape.linears) // 64
        assert memory.kept["weights"] - scales == found["frozen"]


@pytest.mark.parametrize(
    ("case", "run", "kinds"),
    [
        ("fsdp", FULL, {"all_gather float32", "reduce_scatter float32"}),
        ("fsdp_bf16", FULL, {"all_gather float32", "all_gather bfloat16", "reduce_scatter float32"}),
        ("fsdp_qlora", QLORA, {"all_gather float32", "all_gather uint8", "reduce_scatter float32"}),
    ],
)
def test_what_fsdp_sends(case, run, kinds, two, shape):
    """Half of the gathered and summed bytes are a process's own; odd numbers of rows are padded."""
    found = two[case]["counted"]["collectives"]
    if case == "fsdp_bf16" and not cpu_computes_in_bf16():
        pytest.skip("this CPU does not compute in bf16, so the run was in fp32")
    if case == "fsdp_bf16":
        if not cpu_computes_in_bf16():
            pytest.skip("this CPU does not compute in bf16: layers travel in fp32")
        run = Training(tokens=64, weight_bytes=4, compute_bytes=2, device="cpu")
    sent = {x.what: x.size for x in traffic(shape, run, Division("fsdp", 2))}
    filled = 2 * 2 * 64 * 4 if shape.vocab % 2 else 0
    assert set(found) == kinds
    gathered = sum(size for kind, size in found.items() if kind.startswith("all_gather"))
    assert gathered / 2 == pytest.approx(sent["weights"], abs=filled)
    assert found["reduce_scatter float32"] / 2 == pytest.approx(sent["sums of gradients"], abs=filled)


@pytest.mark.skipif(sys.platform != "linux", reason="counts of the kernel")
@pytest.mark.parametrize("case", ["ddp", "fsdp", "fsdp_qlora", "shared"])
def test_what_goes_over_the_wire(case, two, shape):
    """The connections have sent the planned bytes; gloo's reduce-scatter is a whole all-reduce.

    Beside it go a few numbers an update: counts, losses, norms.
    """
    run, division = {**CASES, "shared": (FULL, Division("ddp", 2, sequence=2))}[case]
    run = Training(**{**vars(run), "accumulate": 2 if case == "shared" else 1})
    sent = traffic(shape, run, division)
    expected = sum(x.size * (2 if x.what == "sums of gradients" else 1) for x in sent)
    assert expected <= two[case]["counted"]["sent"] < expected + 20_000


def test_sequence_parallelism(two, shape):
    """Queries, keys, values and results of each layer are exchanged three times, for half of the tokens."""
    run = Training(tokens=64, weight_bytes=4, compute_bytes=4, accumulate=2, device="cpu")
    (sent,) = [x for x in traffic(shape, run, Division("ddp", 2, sequence=2)) if x.over == "sequence"]
    assert two["shared"]["counted"]["collectives"]["all_to_all float32"] / 2 == sent.size
    assert sent.size == 2 * 3 * 2 * 32 * (64 + 32 + 32 + 64) * 4 / 2


def test_rows_of_adapters_that_no_process_can_share():
    """Sixteen rows of a matrix A are one each for the first 16 processes of 64, and none for others."""
    sizes = {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 32000,
    }
    run = Training(tokens=64, rank=16, targets=("q_proj",))
    assert local_weights(read_shape(sizes), run, 64)["trained"] == 1 * 1024 + 1024 // 64 * 16


@pytest.mark.parametrize("case", ["zero1", "zero2", "zero3"])
def test_what_zero_holds_of_the_optimizer(case, two_by_zero, shape):
    memory = process_memory(shape, FULL, Division(case, 2)).device
    assert memory.kept["optimizer"] == pytest.approx(two_by_zero[case]["counted"]["optimizer"], abs=64)


@pytest.mark.skipif(sys.platform != "linux", reason="counts of the kernel")
@pytest.mark.parametrize("case", ["zero1", "zero2"])
def test_what_zero_sends(case, two_by_zero, shape):
    """Whole gradients are summed, and each process sends the weights that it has updated."""
    sent = sum(x.size for x in traffic(shape, FULL, Division(case, 2)))
    assert sent == 3 * shape.num_weights * 4 / 2
    assert sent <= two_by_zero[case]["counted"]["sent"] < sent + 20_000


def test_all_processes_recompute_the_same():
    """Free memory differs by process; recomputation repeats exchanges, so all must do it or none."""
    cfg = SimpleNamespace(model={"type": SupervisedFinetune})
    forecast = SimpleNamespace(training=Training(tokens=64, recompute="none", device="cpu"))
    world, device = SimpleNamespace(broadcast_via_store=lambda make: "full"), SimpleNamespace(type="cpu")
    run = SimpleNamespace(cfg=cfg, forecast=forecast, world=world, device=device)
    assert with_recompute(run)["use_activation_checkpointing"] == "full"
