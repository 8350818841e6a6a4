"""Two processes train as one does with every backend, and hold and send what is planned.

Their checkpoints are interchangeable.
"""

import sys

import pytest
import torch

from tests.parallel.conftest import FULL, SHORT_TWICE
from xtuner.estimate.machine import cpu_computes_in_bf16
from xtuner.estimate.processes import Division, process_memory, traffic
from xtuner.estimate.training import Training

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
QLORA = Training(tokens=64, weight_bytes=4, compute_bytes=4, rank=4, bits=4, double_quant=False, device="cpu")
CASES = {
    "ddp": (FULL, Division("ddp", 2)),
    "fsdp": (FULL, Division("fsdp", 2)),
    "fsdp_qlora": (QLORA, Division("fsdp", 2)),
}


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
def test_two_processes_are_one_with_twice_the_batch(case, one, two, assert_same):
    expected = one(**{"train_dataloader.batch_size": 2})
    assert two[case]["backend"] == case
    assert expected["losses"][-1] < expected["losses"][0] - 1
    assert_same(two[case], expected)


def test_layers_gathered_in_16_bits_train_as_with_autocast(one, two):
    """The weights of norms are rounded when gathered; no process keeps a 16-bit copy of every layer."""
    expected = one(**two["fsdp_bf16"]["options"], **{"train_dataloader.batch_size": 2})
    assert two["fsdp_bf16"]["losses"] == pytest.approx(expected["losses"], rel=2e-3)


def test_parts_read_from_files_are_those_of_whole_weights(two):
    """Each process reads its rows of safetensors, and a pickle whole: after three updates no bit differs."""
    mapped, whole = two["fsdp_mapped"], two["fsdp_whole"]
    assert mapped["losses"] == whole["losses"]
    assert mapped["weights"].keys() == whole["weights"].keys()
    assert all(torch.equal(mapped["weights"][n], w) for n, w in whole["weights"].items())


def test_a_process_may_have_no_row_of_a_weight(one, two, assert_same):
    assert_same(two["fsdp_thin"], one(**two["fsdp_thin"]["options"], **{"train_dataloader.batch_size": 2}))


def test_one_process_alone_has_a_packed_batch_of_an_unproven_family(one, two, assert_same):
    """Isolation of samples is tested once, by all processes, since each gathers weights from all."""
    assert_same(
        two["fsdp_probed"], one(**two["fsdp_probed"]["options"], **{"train_dataloader.batch_size": 2})
    )


@pytest.mark.parametrize("case", ["ddp_apart", "fsdp_apart"])
def test_processes_with_other_numbers_of_samples_wait_for_each_other(case, one, two, assert_same):
    """A family that mixes packed samples runs them one by one, on each process in equally many calls."""
    assert_same(two[case], one(**two[case]["options"], **{"train_dataloader.batch_size": 2}))


@pytest.mark.parametrize("case", ["ddp_balanced", "fsdp_balanced"])
def test_experts_are_balanced_on_each_process(case, one, two, assert_same):
    """The balance loss is of one forward pass, as in two batches of one process."""
    expected = one(**{**two[case]["options"], **SHORT_TWICE})
    assert_same({**two[case], "losses": expected["losses"]}, expected)


def test_parts_of_a_quantised_base(one, two, assert_same):
    """FSDP2 divides the codes of nf4; the adapters equal those of one process."""
    assert_same(two["fsdp_qlora"], one(**two["fsdp_qlora"]["options"], **{"train_dataloader.batch_size": 2}))


@pytest.mark.parametrize("case", ["ddp_oft", "ddp_prompts"])
def test_other_adapters_than_lora_train_in_processes(case, one, two, assert_same):
    expected = one(**two[case]["options"], **{"train_dataloader.batch_size": 2})
    assert expected["losses"][-1] != expected["losses"][0]
    assert_same(two[case], expected)


@pytest.mark.parametrize("case", ["ddp_experts", "fsdp_experts", "fsdp_qlora_experts"])
def test_adapters_of_packed_experts(case, one, two, assert_same):
    """Adapters of every expert are trained, with tokens on this process or not; with 4 bits too."""
    expected = one(**two[case]["options"], **{"train_dataloader.batch_size": 2})
    assert any("experts.base_layer.lora_B" in name for name in expected["weights"])
    assert_same(two[case], expected)


def test_sampling_from_parts(two):
    """All processes generate together, rank 0 writes the answer."""
    (sample,) = two["fsdp_qlora"]["samples"]
    assert sample.startswith("Eval output 1:\n")


@pytest.mark.parametrize("case", ["shared", "shared_fsdp_lora", "shared_dynamic", "shared_sinks"])
def test_a_sequence_divided_among_two_processes_trains_as_whole(case, one, two, assert_same):
    """No label is lost at the cut, packed samples stay isolated; a single head of keys is repeated.

    Rope is scaled by the whole sample, of which each has a part; sinks follow their heads.
    """
    assert_same(two[case], one(**two[case]["options"]))


@pytest.mark.parametrize("case", ["ddp_after_one", "fsdp_after_ddp", "ddp_after_fsdp"])
def test_a_checkpoint_resumes_with_other_processes(case, one, two, assert_same):
    """One process, DDP and FSDP2 write one format; the resumed run has the same result as an unbroken one."""
    expected = one(**{"train_dataloader.batch_size": 2})
    assert_same(two[case], expected, slice(10, None))


def test_one_process_resumes_from_two(one, two, assert_same):
    saved = two["fsdp"]["folder"] / "iter_10.pth"
    found = one(accumulative_counts=2, max_iters=40, resume=str(saved))
    whole = one(accumulative_counts=2, max_iters=40, interval=20)
    assert_same(found, whole, slice(10, None))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("lora_after_full", "The checkpoint does not fit the model"),
        (
            "shared_mixing",
            "sequence_parallel_size: models of the family 'lfm2' have an attention of their own, which",
        ),
        ("four_share", "sequence_parallel_size is 4, which does not divide the number of processes, 2"),
        (
            "fsdp_paged",
            "optim_wrapper.optimizer is PagedAdamW32bit of bitsandbytes, which cannot work on the",
        ),
    ],
)
def test_impossible_settings_are_errors(case, message, two):
    assert message in two[case]["error"]


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
