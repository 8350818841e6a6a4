"""What is chosen for accelerators of each kind, and that no code names CUDA where it means any of them."""

import ast
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, LlamaConfig

from xtuner import devices, dist
from xtuner.convert.merge import _device
from xtuner.engine import optim, params, randomness
from xtuner.engine.checkpoints import background
from xtuner.engine.memory import _out_of_memory
from xtuner.errors import ConfigError
from xtuner.estimate import fixes, machine
from xtuner.estimate.configured import read_training
from xtuner.estimate.forecast import Forecast, memory_lines
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate, ways_on
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Training
from xtuner.model import loading, quantization
from xtuner.model.fused.dropout import bits_of
from xtuner.parallel import world

ROOT = Path(devices.__file__).parent
NAMES_CUDA = {
    "check/environment.py": "variables that users set, by their names",
    "devices.py": "the room of all kinds",
    "estimate/machine.py": "nvidia-smi shows NVIDIA's cards",
    "model/attention_kernels.py": "FlashAttention, and compute capabilities",
    "model/fused/experts.py": "grouped products from a compute capability on",
    "model/kernels/__init__.py": "Triton's kernels",
}
SHAPE = read_shape(LlamaConfig(num_hidden_layers=4).to_dict())
FOUR_BITS = BitsAndBytesConfig(load_in_4bit=True)


def on(kind):
    """A device of that kind: torch itself has no npu."""
    return SimpleNamespace(type=kind)


def says_cuda(path):
    """Whether code of the file says so: in strings but docstrings, names and attributes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    comments = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = getattr(node, "attr", getattr(node, "id", None))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            text = node.value
        if isinstance(text, str) and "cuda" in text.lower():
            return True
    return False


def test_no_code_names_cuda_where_it_means_an_accelerator():
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if says_cuda(path)}
    assert found == set(NAMES_CUDA)


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (("Darwin", "arm64", "", False), True),
        (("Darwin", "x86_64", "", False), False),
        (("Linux", "x86_64", "rocm6.4", False), True),
        (("Linux", "x86_64", "xpu", False), True),
        (("Linux", "x86_64", "cpu", False), False),
        (("Linux", "x86_64", "", False), False),
        (("Linux", "aarch64", "cpu", True), True),
    ],
)
def test_torch_is_asked_only_where_it_may_find_another_accelerator(place, found):
    """A Mac with Apple's chip, builds of torch for AMD and Intel, torch_npu."""
    assert devices.is_built_for_accelerator(*place) is found


def found_here(monkeypatch, kind):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))


@pytest.mark.parametrize(
    ("kind", "asked", "used"),
    [("mps", None, "mps:0"), ("xpu", "xpu", "xpu:0"), ("mps", "cpu", "cpu"), (None, None, "cpu")],
)
def test_the_device_is_torchs_accelerator(monkeypatch, kind, asked, used):
    """XTUNER_DEVICE=cpu leaves it alone."""
    found_here(monkeypatch, kind)
    if asked:
        monkeypatch.setenv("XTUNER_DEVICE", asked)
    assert dist.device() == torch.device(used)


def test_another_accelerator_than_the_one_here_is_an_error(monkeypatch):
    found_here(monkeypatch, "mps")
    monkeypatch.setenv("XTUNER_DEVICE", "cuda")
    with pytest.raises(ConfigError, match="XTUNER_DEVICE is 'cuda', and torch finds mps here"):
        dist.device()
    monkeypatch.delenv("XTUNER_DEVICE")
    with pytest.raises(ConfigError, match="device is 'xpu', but torch finds none here"):
        _device("xpu")
    assert (_device("auto"), _device("cpu")) == (torch.device("mps"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("asked", "has_bf16", "used"),
    [
        (None, True, torch.bfloat16),
        (None, False, torch.float16),
        ("float16", True, torch.float16),
        ("bfloat16", False, torch.float16),
        ("float32", True, torch.float32),
    ],
)
@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda"])
def test_an_accelerator_computes_in_what_is_asked_if_it_can(monkeypatch, kind, asked, has_bf16, used):
    monkeypatch.setattr(loading, "computes_in_bf16", lambda device: has_bf16)
    assert loading.compute_dtype(asked, kind) is used


@pytest.mark.parametrize(
    ("kind", "configured", "used"),
    [
        ("cpu", None, "gloo"),
        ("cpu", "nccl", "gloo"),
        ("cuda", None, "cpu:gloo,cuda:nccl"),
        ("cuda", "gloo", "cpu:gloo,cuda:gloo"),
        ("xpu", "nccl", "cpu:gloo,xpu:xccl"),
        ("npu", "nccl", "cpu:gloo,npu:hccl"),
        ("npu", "hccl", "cpu:gloo,npu:hccl"),
    ],
)
def test_processes_talk_by_what_their_devices_have(kind, configured, used):
    assert world.transport(kind, configured) == used


def test_a_mac_has_one_process():
    world.check_processes("mps", 1)
    world.check_processes("npu", 8)
    with pytest.raises(ConfigError, match=r"2 processes on mps, which takes one: .*XTUNER_DEVICE=cpu"):
        world.check_processes("mps", 2)


@pytest.mark.parametrize(
    ("kind", "fused"),
    [
        ("cpu", "Adam AdamW SGD Adagrad"),
        ("cuda", "Adam AdamW SGD"),
        ("xpu", "Adam AdamW"),
        ("npu", ""),
        ("mps", ""),
    ],
)
def test_fused_optimizers_are_those_that_apply_the_factor(kind, fused):
    """An optimizer that ignored `grad_scale` would not clip."""
    on_device = [SimpleNamespace(device=on(kind))]
    names = ("Adam", "AdamW", "SGD", "Adagrad", "RMSprop")
    found = [name for name in names if params.with_fastest_kernel({}, getattr(torch.optim, name), on_device)]
    assert found == fused.split()


def test_optimizers_that_do_not_work_are_refused():
    adam, eight = torch.optim.AdamW, type("AdamW8bit", (), {"__module__": "bitsandbytes.optim.adamw"})
    for kind in ("cpu", "cuda", "xpu"):
        params.check_device({"fused": True}, adam, on(kind))
        params.check_device({}, eight, on(kind))
    for kind in ("mps", "npu"):
        params.check_device({}, adam, on(kind))
        with pytest.raises(ConfigError, match=f"fused=True: on {kind} .*, so remove it"):
            params.check_device({"fused": True}, adam, on(kind))
        with pytest.raises(ConfigError, match=f"AdamW8bit of bitsandbytes, .* on {kind}: use torch.optim"):
            params.check_device({}, eight, on(kind))


@pytest.mark.parametrize(
    ("kind", "version", "fp64", "scales"),
    [
        ("cuda", "2.7.0", True, True),
        ("mps", "2.7.1", False, False),
        ("mps", "2.8.0", False, True),
        ("xpu", "2.13.0+xpu", False, False),
        ("xpu", "2.13.0+xpu", True, True),
    ],
)
def test_fp16_needs_a_loss_scale_that_torch_can_compute(kind, version, fp64, scales):
    if scales:
        optim.check_loss_scale(kind, version, fp64)
        return
    with pytest.raises(ConfigError, match=rf"fp64, which this {kind} has not: use 'bfloat16'"):
        optim.check_loss_scale(kind, version, fp64)


@pytest.mark.parametrize(
    ("kind", "installed", "problem"),
    [
        ("cpu", {}, None),
        ("cuda", {}, None),
        ("xpu", {}, None),
        ("npu", {}, "documents no layers in 4 or 8 bits on npu: use the model in 16 bits"),
        ("hpu", {}, "documents no layers in 4 or 8 bits on hpu"),
        ("mps", {"bitsandbytes": "0.50.2", "torch": "2.13.0"}, None),
        (
            "mps",
            {"torch": "2.13.0"},
            "need bitsandbytes 0.50, here is None: .*-m pip install 'bitsandbytes>=0.50'",
        ),
        ("mps", {"bitsandbytes": "0.49.2", "torch": "2.13.0"}, "here is 0.49.2"),
        ("mps", {"bitsandbytes": "0.50.0", "torch": "2.8.0"}, "need torch 2.9, here is 2.8.0"),
    ],
)
def test_4_bits_are_used_where_bitsandbytes_documents_them(monkeypatch, kind, installed, problem):
    """A configured quantisation, and a folder that is quantised; other models are not asked."""
    monkeypatch.setattr(quantization, "_version", installed.get)
    quantization.check_bits(None, LlamaConfig(), kind)
    quantised = LlamaConfig(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    for given, config in ((FOUR_BITS, LlamaConfig()), (None, quantised)):
        if problem is None:
            quantization.check_bits(given, config, kind)
        else:
            with pytest.raises(ConfigError, match=problem):
                quantization.check_bits(given, config, kind)


def test_random_bits_are_made_of_fractions():
    """The ends of both ranges; each value stands for 1 / 65,536 of the fractions."""
    fractions = torch.tensor([0.0, 0.5, 0.99999994, 1.5 / 65536])
    assert bits_of(fractions).tolist() == [-32768, 0, 32767, -32767]
    drawn = bits_of(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert (drawn >= round(0.1 * 65536) - 32768).float().mean().item() == pytest.approx(0.9, abs=3e-3)


@pytest.mark.parametrize(("kind", "in_thread"), [("cuda", True), ("mps", False)])
def test_a_device_for_one_thread_is_read_by_the_training_loop(monkeypatch, kind, in_thread):
    threads = []
    monkeypatch.setattr(background, "_accelerators", lambda state: {torch.device(kind)})
    monkeypatch.setattr(
        background.Snapshots, "take", lambda self, state: threads.append(threading.current_thread())
    )
    writer = background.BackgroundWriter()
    writer.write({}, lambda state: None)
    writer.wait()
    assert [thread is not threading.main_thread() for thread in threads] == [in_thread]


def test_the_random_state_of_another_accelerator_is_left_alone():
    """A checkpoint of a run on a GPU goes on without one."""
    state = {**randomness.get_rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)}
    randomness.set_rng_state(state)
    wanted = torch.rand(3)
    randomness.set_rng_state(state)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    "text", ["MPS backend out of memory (MPS allocated: 8 GB)", "NPU out of memory. Tried to allocate 2 GiB"]
)
def test_their_errors_of_missing_memory_are_known(text):
    assert _out_of_memory(RuntimeError(text)) is not None


def test_nothing_is_offloaded_to_the_memory_it_is_in():
    assert ["offload" in ways_on(kind) for kind in devices.KINDS] == [False, True, True, True, False]
    config = {
        "model": {"lora": LoraConfig(r=4).to_dict(), "use_activation_checkpointing": "offload"},
        "train_dataloader": {"dataset": {"max_length": 64}},
    }
    used = {kind: read_training(config, SHAPE, Machine(kind, "", 0, 0)).recompute for kind in devices.KINDS}
    assert used == {"cpu": "offload", "cuda": "offload", "xpu": "offload", "npu": "offload", "mps": "full"}


@pytest.mark.parametrize(
    ("kind", "proposed"),
    [("cuda", {"QLoRA", "8bit"}), ("xpu", {"QLoRA", "8bit"}), ("mps", {"QLoRA"}), ("npu", set())],
)
def test_cures_are_such_that_work(kind, proposed):
    run = Training(4096, rank=64, recompute="full", device=kind)
    texts = [fix.text for fix in fixes.fixes(SHAPE, run, count=9)]
    assert {word for word in ("QLoRA", "8bit") if any(word in text for text in texts)} == proposed


def test_an_offloaded_run_has_cures_on_a_cpu_too():
    run = Training(4096, rank=64, recompute="offload", device="cpu")
    assert fixes.fixes(SHAPE, run)


def test_the_estimate_says_where_it_was_never_measured():
    """On mps the scores of a sample count, which torch keeps there."""
    run = Training(2048, rank=8, recompute="none", device="mps")
    memory = estimate(SHAPE, run)
    found = Forecast(SHAPE, run, Machine("mps", "Apple GPU", 2**34, 2**34), memory, None, None)
    assert "as on an NVIDIA GPU: on mps it was never measured" in memory_lines(found)[1]
    more = memory.total - estimate(SHAPE, Training(2048, rank=8, recompute="none", device="xpu")).total
    scores = SHAPE.layers * SHAPE.heads * 2048**2 * 2
    assert more == pytest.approx(scores, rel=0.1)


@pytest.mark.parametrize(("kind", "free"), [("xpu", 12e9), ("mps", 8e9)])
def test_a_device_in_the_hosts_memory_has_no_more_free_than_the_host(monkeypatch, kind, free):
    monkeypatch.setattr(devices, "memory_of", lambda device: (12_000_000_000, 16_000_000_000))
    monkeypatch.setattr(machine, "free_memory", lambda: 8_000_000_000)
    assert machine.memory_of(torch.device(kind)) == (free, 16e9)
