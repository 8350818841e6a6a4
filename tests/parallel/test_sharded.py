"""Checkpoints that several processes write together: complete or absent, read by any number of processes."""

import pytest
import torch

from tests.parallel.conftest import LORA, launched
from xtuner.engine.checkpoints.files import find_fault, load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory, common):
    """What two processes with FSDP save, in the forms that there are."""
    folder = tmp_path_factory.mktemp("forms")
    fsdp = {**common, "fsdp": True, "accumulative_counts": 2, "max_iters": 8, "interval": 4}
    cases = {
        "single": {**fsdp, "sharded": False},
        "sharded": fsdp,
        "async": {**fsdp, "save_async": True},
        "thin": {**fsdp, "lora": {**LORA, "r": 1}, "sharded": True},
        "ddp": {**fsdp, "fsdp": False, "sharded": True},
    }
    assert launched(cases, folder, 2) == 0
    return folder


def assert_same_state(found, expected):
    """Every tensor by its bits."""
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert all(torch.equal(found["state_dict"][n], w) for n, w in expected["state_dict"].items())
    assert str(found["optimizer"]["optimizer"]["param_groups"]) == str(
        expected["optimizer"]["optimizer"]["param_groups"]
    )
    for number, slots in expected["optimizer"]["optimizer"]["state"].items():
        for name, slot in slots.items():
            assert torch.equal(found["optimizer"]["optimizer"]["state"][number][name], slot)


@pytest.mark.parametrize("form", ["sharded", "async"])
def test_parts_are_what_the_single_file_holds(of_two, form):
    path = of_two / form / "iter_4.pth"
    assert path.is_dir()
    assert find_fault(path) is None
    assert_same_state(load_checkpoint(path), load_checkpoint(of_two / "single" / "iter_4.pth"))


@pytest.mark.parametrize("form", ["thin", "ddp"])
def test_every_backend_and_adapter_can_be_sharded(of_two, form):
    path = of_two / form / "iter_4.pth"
    assert path.is_dir()
    assert find_fault(path) is None
    assert load_checkpoint(path)["meta"]["iter"] == 4


def test_other_numbers_of_processes_continue(of_two, one, common, tmp_path):
    """2 -> 4 -> 1 processes end where one process that never stopped ends."""
    options = {**common, "fsdp": True, "max_iters": 4, "interval": 3}
    saved = of_two / "sharded" / "iter_4.pth"
    assert launched({"four": {**options, "resume": str(saved)}}, tmp_path, 4) == 0
    assert len(list((tmp_path / "four" / "iter_3.pth").glob("*.distcp"))) == 4
    alone = {"accumulative_counts": 4, "max_iters": 16}
    found = one(**alone, resume=str(tmp_path / "four" / "iter_3.pth"))
    expected = one(**alone)
    worst = max((found["weights"][n] - w).abs().max().item() for n, w in expected["weights"].items())
    assert worst < 1e-6
