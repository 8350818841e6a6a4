"""Adapters other than LoRA, optimizers by name and layers in turns: two processes train as one."""

import pytest
import torch

from tests.model.test_adapters import TRAINED, settings
from tests.parallel.conftest import LORA, NF4
from xtuner.model.adapter_methods import METHODS

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
DIVIDED = [name for name in TRAINED if METHODS[name].divides]
IN_4_BITS = ["OFT", "IA3", "VERA", "TRAINABLE_TOKENS", "ADAPTION_PROMPT"]
# PVeRA draws numbers for each token, so two processes by DDP are its reference.
DRAWS = "PVERA"
FREE = {
    "AdamWScheduleFree": {"lr": 1e-3, "eps": 1e-5},
    "RAdamScheduleFree": {"lr": 1e-3, "eps": 1e-5},
    "SGDScheduleFree": {"lr": 0.1},
}
MUON = {"type": "xtuner.engine.muon.Muon", "lr": 1e-3}
IN_TURNS = [{"type": "xtuner.engine.hooks.LISAHook", "num_layers": 1, "interval": 2}]


def adapter(name, **more):
    cfg = {"type": f"peft.{METHODS[name].config}", **settings(name)}
    return {"lora": cfg, "max_iters": 3, "recompute": "TUNING" not in name or name == "LN_TUNING", **more}


def free(name, **more):
    optimizer = {"type": f"schedulefree.{name}", **FREE[name]}
    return {"optimizer": optimizer, "max_iters": 6, **more}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, common, in_two_processes):
    """The results of two processes for each case."""
    pytest.importorskip("schedulefree")
    folder = tmp_path_factory.mktemp("adapted")
    cases = {
        **{name: adapter(name, fsdp=True) for name in DIVIDED},
        **{f"{name} in 4 bits": adapter(name, fsdp=True, quantization_config=NF4) for name in IN_4_BITS},
        "refused": adapter("VBLORA", fsdp=True),
        f"{DRAWS} by ddp": adapter(DRAWS),
        "OFT saved": adapter("OFT", interval=1),
        "OFT resumed": adapter("OFT", fsdp=True, resume=str(folder / "OFT saved/iter_1.pth")),
        "OFT back": adapter("OFT", resume=str(folder / "OFT halved/iter_2.pth")),
        **{f"{name} ddp": free(name) for name in FREE},
        **{f"{name} fsdp": free(name, fsdp=True, interval=3) for name in FREE},
        **{
            f"{name} resumed": free(name, fsdp=True, resume=str(folder / f"{name} fsdp/iter_3.pth"))
            for name in FREE
        },
        "free lora": free("AdamWScheduleFree", fsdp=True, lora=LORA),
        "muon": {"optimizer": MUON, "max_iters": 1},
        "muon fsdp": {"optimizer": MUON, "max_iters": 1, "fsdp": True},
        "lisa": {"custom_hooks": IN_TURNS, "max_iters": 6, "interval": 3},
        "lisa resumed": {
            "custom_hooks": IN_TURNS,
            "max_iters": 6,
            "resume": str(folder / "lisa/iter_3.pth"),
        },
        "lisa fsdp": {"custom_hooks": IN_TURNS, "max_iters": 1, "fsdp": True},
    }
    cases["OFT halved"] = adapter("OFT", fsdp=True, interval=2)
    cases["OFT back"] = cases.pop("OFT back")
    return in_two_processes({n: {**common, **o} for n, o in cases.items()}, folder)


@pytest.fixture
def alone(one, trained):
    """A function from a case to the results of one process with twice the batch."""
    return lambda case, **more: one(**trained[case]["options"], **{"train_dataloader.batch_size": 2}, **more)


@pytest.mark.parametrize(
    "case", [*(n for n in DIVIDED if n != DRAWS), *(f"{n} in 4 bits" for n in IN_4_BITS)]
)
def test_fsdp_divides_an_adapter_as_one_process_trains_it(case, alone, trained, assert_same):
    assert "error" not in trained[case], trained[case].get("error")
    assert trained[case]["backend"] == "fsdp"
    assert_same(trained[case], alone(case))


def test_an_adapter_that_draws_numbers_trains_by_fsdp_as_by_ddp(trained, assert_same):
    assert_same(trained[DRAWS], trained[f"{DRAWS} by ddp"])


@pytest.mark.parametrize("case", ["OFT resumed", "OFT back"])
def test_an_adapter_resumes_by_another_backend(case, trained, assert_same):
    start = 1 if case == "OFT resumed" else 2
    assert_same(trained[case], trained["OFT"], slice(start, None))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("refused", "model.lora.type: VBLORA trains without --fsdp and --deepspeed: leave it out"),
        ("muon fsdp", "optim_wrapper.optimizer is Muon, which needs whole weights: train without --fsdp"),
        ("lisa fsdp", "LISAHook frees whole layers: train without --fsdp and --deepspeed"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(case, message, trained):
    assert message in trained[case]["error"]


@pytest.mark.parametrize(
    "case", [f"{name} {way}" for name in FREE for way in ("ddp", "fsdp")] + ["free lora"]
)
def test_schedule_free_optimizers(case, alone, trained, assert_same):
    """Weights at the end are the averaged ones on every process."""
    assert_same(trained[case], alone(case))


@pytest.mark.parametrize("name", FREE)
def test_a_schedule_free_run_resumes_from_parts(name, alone, trained, assert_same):
    assert_same(trained[f"{name} resumed"], alone(f"{name} fsdp"), slice(3, None))


def test_muon_by_ddp(alone, one, trained):
    """Newton-Schulz steps are in bf16, so a matrix's update agrees to a few percent; all else to 1e-6."""
    start = one(**{**trained["muon"]["options"], "optimizer": {**MUON, "lr": 0.0}})["weights"]
    whole, found = alone("muon")["weights"], trained["muon"]["weights"]
    for name, weight in whole.items():
        update = (weight - start[name]).norm()
        is_matrix = "layers" in name and weight.dim() == 2
        assert (found[name] - weight).norm() <= (0.03 if is_matrix else 1e-4) * update, name
        assert update > 0


def test_layers_take_turns_alike_in_all_processes(alone, trained, assert_same):
    """The same layers are drawn, in a resumed run too; those at rest keep their weights."""
    expected = alone("lisa", custom_hooks=IN_TURNS)
    assert_same(trained["lisa"], expected)
    assert_same(trained["lisa resumed"], expected, slice(3, None))
    whole = alone("lisa")["weights"]
    changed = [n for n, w in expected["weights"].items() if not torch.equal(w, whole[n])]
    assert any("layers" in name for name in changed)
