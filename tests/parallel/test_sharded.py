"""Checkpoints that several processes write together: complete or absent, read by any number of processes."""

import json

import pytest
import torch

from tests.parallel.conftest import LORA
from xtuner.engine.checkpoints.files import find_fault, find_whole, load_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


KILLING = "killed_while_saving"
KILLED = {"fsdp": True, "max_iters": 6, "interval": 2}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory, common, launched):
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


def test_other_numbers_of_processes_continue(of_two, one, common, launched, tmp_path):
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


KILLS = [(1, "half", True), (0, "described", False), (0, "renamed", False)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, common, launched):
    """Folders of runs, each with a process that was killed while it saved its second checkpoint."""
    folders = {}
    for rank, moment, save_async in KILLS:
        folder = tmp_path_factory.mktemp("killed")
        order = {"rank": rank, "moment": moment, "checkpoint": "iter_4.pth"}
        (folder / "kill.json").write_text(json.dumps(order))
        case = {**common, **KILLED, "save_async": save_async}
        assert launched({"run": case}, folder, 2, KILLING) != 0
        folders[rank, moment, save_async] = folder / "run"
    return folders


@pytest.fixture(scope="module")
def resumed(killed, common, launched, tmp_path_factory):
    """What the runs end with that continue from what the killed ones left, and one that never stopped."""
    folder = tmp_path_factory.mktemp("resumed")
    cases = {"whole": {**common, **KILLED}}
    for number, found in enumerate(killed.values()):
        (folder / str(number)).symlink_to(found)
        cases[str(number)] = {**common, **KILLED, "resume": True}
    assert launched(cases, folder, 2) == 0
    return {name: torch.load(folder / f"{name}.pt")["weights"] for name in cases}


@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_at_any_moment_leaves_the_checkpoint_before(kill, killed):
    """Or, once the new one has its name, both."""
    names = sorted(path.name for path in killed[kill].glob("*.pth"))
    assert names == (["iter_2.pth", "iter_4.pth"] if kill[1] == "renamed" else ["iter_2.pth"])
    assert find_whole(killed[kill]).name == "iter_2.pth"


@pytest.mark.parametrize("number", range(len(KILLS)))
def test_a_killed_run_resumes_to_the_same_bits(number, killed, resumed):
    found = resumed[str(number)]
    assert all(torch.equal(found[name], w) for name, w in resumed["whole"].items())
    assert [p.name for p in list(killed.values())[number].glob(".*.pth.*")] == []
