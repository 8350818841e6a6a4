"""Two processes train as one does with every backend, and their checkpoints are interchangeable."""

import pytest
import torch

from tests.parallel.conftest import SHORT_TWICE

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


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
