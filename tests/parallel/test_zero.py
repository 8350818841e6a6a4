"""DeepSpeed's ZeRO trains as one process does and shares checkpoints with every backend."""

import sys

import pytest
import torch

from tests.parallel.conftest import FULL
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.estimate.processes import Division, process_memory, traffic

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
STAGES = ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]
# Of a family whose samples each run by themselves: processes call the model equally often.
APART = ["zero2_apart", "zero3_apart"]


LORA_CASES = ["zero2_qlora", "zero3_qlora", "zero3_sampled", "zero3_experts"]


@pytest.mark.parametrize("case", [*STAGES, *LORA_CASES, *APART])
def test_two_processes_are_one_with_twice_the_batch(case, one, two_by_zero, assert_same):
    expected = one(**two_by_zero[case]["options"], **{"train_dataloader.batch_size": 2})
    assert two_by_zero[case]["backend"] == "deepspeed"
    assert_same(two_by_zero[case], expected)


def test_a_sequence_divided_among_two_processes_trains_as_whole(one, two_by_zero, assert_same):
    assert_same(two_by_zero["zero2_shared"], one(**two_by_zero["zero2_shared"]["options"]))


CASES = ["zero1_after_one", "zero3_after_zero1", "zero2_after_zero3", "ddp_after_zero3"]


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_resumes_with_other_processes(case, one, two_by_zero, assert_same):
    assert_same(two_by_zero[case], one(**{"train_dataloader.batch_size": 2}), slice(10, None))


def test_one_process_resumes_from_zero(one, two_by_zero, assert_same):
    saved = two_by_zero["zero2"]["folder"] / "iter_10.pth"
    found = one(accumulative_counts=2, max_iters=40, resume=str(saved))
    assert_same(found, one(accumulative_counts=2, max_iters=40, interval=20), slice(10, None))


def test_the_files(two_by_zero):
    """Each checkpoint is a folder, beside a script that converts one to a single file."""
    folder = two_by_zero["zero2"]["folder"]
    assert sorted(p.name for p in (folder / "iter_10.pth").iterdir()) == [
        "mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ]
    assert (folder / "zero_to_fp32.py").is_file()
    state = load_checkpoint(folder / "iter_10.pth", check=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


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
