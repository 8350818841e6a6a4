"""The forecast of a run by several processes, and the table of ways to divide it."""

import pytest

from xtuner.estimate import forecast as module
from xtuner.estimate.configured import read_division
from xtuner.estimate.forecast import forecast, memory_lines, shortages
from xtuner.estimate.machine import Machine
from xtuner.estimate.plan_table import plan_lines
from xtuner.estimate.processes import BACKENDS, Division
from xtuner.recipes.sizes import known_sizes

GPU = Machine("cuda", "NVIDIA H100 80GB HBM3", 80_000_000_000, 79_000_000_000)
CPU = Machine("cpu", "CPU", 64_000_000_000, 48_000_000_000, num_cores=8)
CONFIG = {
    "model": {"llm": {"pretrained_model_name_or_path": "meta-llama/Llama-2-7b-hf"}},
    "train_dataloader": {"batch_size": 1, "dataset": {"max_length": 4096}},
    "optim_wrapper": {"type": "AmpOptimWrapper", "optimizer": {"type": "AdamW"}},
    "train_cfg": {"max_iters": 100},
}


@pytest.fixture
def found_on(monkeypatch):
    """Function of a machine and a division: the forecast of CONFIG there."""

    def find(machine, division):
        monkeypatch.setattr(module, "find_machine", lambda: machine)
        return forecast(CONFIG, known_sizes, division)

    return find


@pytest.mark.parametrize(
    ("config", "fsdp", "zero", "expected"),
    [
        ({}, False, None, "ddp"),
        ({}, True, None, "fsdp"),
        ({"fsdp": True, "sequence_parallel_size": 2}, False, None, "fsdp with rows shared by 2"),
        ({}, False, {"zero_optimization": {"stage": 1}}, "zero1"),
        (
            {},
            False,
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "zero2_offload",
        ),
        ({}, False, {"zero_optimization": {"stage": 3, "offload_param": {"device": "none"}}}, "zero3"),
        ({"sequence_parallel_size": 3}, False, None, "ddp"),
    ],
)
def test_how_processes_divide_a_run(config, fsdp, zero, expected):
    assert read_division(config, 4, 4, fsdp, zero).text == expected


def test_each_process_has_a_gpu_of_its_own(found_on):
    found = found_on(GPU, Division("fsdp", 8))
    assert memory_lines(found)[0].startswith("memory   about ")
    assert " for each of 8 processes, fsdp, (79.0 GB free on NVIDIA H100" in memory_lines(found)[0]
    assert found.memory.kept["weights"] < 27e9 / 7
    assert found.num_tokens == 100 * 4096 * 8
    assert found.seconds == found_on(GPU, Division("fsdp", 16)).seconds


def test_if_a_part_fits_nothing_is_recomputed(found_on):
    assert found_on(GPU, Division()).training.recompute == "offload"
    assert found_on(GPU, Division("fsdp", 8)).training.recompute == "none"


def test_processes_share_the_memory_and_the_cores_of_a_cpu(found_on):
    found = found_on(CPU, Division("fsdp", 4, per_node=4))
    assert (found.machine.free_bytes, found.machine.num_cores) == (12_000_000_000, 2)
    found = found_on(CPU, Division("fsdp", 4, per_node=1))
    assert found.machine.free_bytes == 48_000_000_000


def test_fsdp_is_the_first_thing_to_try(found_on):
    (fault,) = shortages(CONFIG, found_on(GPU, Division("ddp", 8)))
    assert "are needed for each process and 79.0 GB are free on NVIDIA H100" in fault.message
    assert ": --fsdp saves " in fault.message


def test_weights_that_do_not_fit_while_they_are_read(found_on):
    small = Machine("cuda", "L4", 24_000_000_000, 24_000_000_000)
    (fault,) = shortages(CONFIG, found_on(small, Division("zero3", 64)))
    assert (
        "each process holds all weights while they are read, 27.0 GB, and 24.0 GB are free" in fault.message
    )


def test_a_row_for_each_way(found_on):
    title, head, *rows = plan_lines(CONFIG, found_on(GPU, Division("ddp", 16, per_node=4)))
    assert title.startswith(
        "plan     16 processes, 4 on a machine, each with 80.0 GB (NVIDIA H100 80GB HBM3, "
    )
    assert title.endswith("an update takes 65536 tokens")
    assert head.split() == ["backend", "memory", "reading", "host", "sent", "scaling"]
    assert [row.split()[0] for row in rows] == list(BACKENDS)
    assert rows[0].endswith("   does not fit")
    assert not rows[1].endswith("   does not fit")


def test_without_a_gpu_the_table_is_of_those_it_names(found_on):
    title = plan_lines(CONFIG, found_on(CPU, Division("ddp", 8)))[0]
    assert "8 processes, 8 on a machine, each with 141.0 GB (H200, NVLink, 8 x 400 Gb/s" in title
