"""The mean of checkpoints and of folders."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from xtuner.convert.average import average
from xtuner.convert.checkpoint import convert_checkpoint
from xtuner.convert.checkpoint_weights import CheckpointWeights
from xtuner.convert.merge import merge
from xtuner.convert.pth_to_hf import pth_to_hf
from xtuner.convert.weights import Weights
from xtuner.engine.checkpoints.files import find_fault, load_checkpoint, save_checkpoint
from xtuner.errors import CheckpointError, ConfigError, NotFoundError

IDS = torch.arange(3, 35).unsqueeze(0)
# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def state_of(seed, dtype=torch.float32):
    """Weights of a run: some trained, two of them tied, some frozen and 4 bits, a buffer of integers."""
    random = torch.Generator().manual_seed(seed)
    tied = torch.randn(6, 4, generator=random).to(dtype)
    return {
        "llm.embed": tied,
        "llm.head": tied,
        "llm.w": torch.randn(3, 2, generator=random).to(dtype),
        "llm.frozen": torch.full((5,), 0.1, dtype=dtype),
        "llm.four_bits": torch.arange(7, dtype=torch.uint8),
        "llm.count": torch.tensor(3),
    }


@pytest.fixture
def work_dir(tmp_path):
    """Three checkpoints of a run, the newest of them with the oldest time."""
    (tmp_path / "run").mkdir()
    for i in (300, 100, 200):
        state = {"meta": {"iter": i}, "state_dict": state_of(i), "optimizer": {"state": {}}, "resume": {}}
        save_checkpoint(state, tmp_path / "run" / f"iter_{i}.pth")
    return tmp_path / "run"


def expected(name, weights, seeds=(100, 200, 300)):
    mean = sum(w * state_of(i)[name].double() for w, i in zip(weights, seeds, strict=True))
    return mean.to(state_of(1)[name].dtype)


def test_the_last_of_a_run(work_dir, tmp_path):
    """The mean of float64, and what is known of the run; no optimizer. What was equal stays, to the bit."""
    paths = average([work_dir], tmp_path / "mean.pth", last=2, weights=[1, 3])
    assert [p.name for p in paths] == ["iter_200.pth", "iter_300.pth"]
    found = load_checkpoint(tmp_path / "mean.pth", check=True)
    weights = found.pop("state_dict")
    averaged = [["iter_200.pth", 0.25], ["iter_300.pth", 0.75]]
    assert found == {"meta": {"iter": 300, "averaged": averaged}}
    assert list(weights) == list(state_of(1))
    for name in ("llm.embed", "llm.w"):
        torch.testing.assert_close(weights[name], expected(name, (0.25, 0.75), (200, 300)), atol=1e-7, rtol=0)
    for name in ("llm.frozen", "llm.four_bits", "llm.count"):
        assert torch.equal(weights[name], state_of(1)[name])
    assert weights["llm.embed"].data_ptr() == weights["llm.head"].data_ptr()
    assert [p.name for p in tmp_path.glob(".*") if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("form", ["single", "sharded", "deepspeed"])
def test_every_form_of_a_checkpoint(work_dir, tmp_path, form):
    """Sharded ones give a sharded one, files and DeepSpeed's folders a file; all the same numbers."""
    reference = average([work_dir], tmp_path / "reference.pth")
    sources = [work_dir / f"iter_{i}.pth" for i in (100, 200, 300)]
    if form == "sharded":
        sources = [tmp_path / p.name for p in reference]
        for path in reference:
            convert_checkpoint(path, tmp_path / path.name, sharded=True)
    if form == "deepspeed":
        for path in sources:
            state = load_checkpoint(path)
            path.unlink()
            save_checkpoint(state, path, optimizer_file="bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    average(sources, tmp_path / "mean.pth")
    assert (tmp_path / "mean.pth").is_dir() == (form == "sharded")
    assert find_fault(tmp_path / "mean.pth") is None
    want = load_checkpoint(tmp_path / "reference.pth")["state_dict"]
    found = load_checkpoint(tmp_path / "mean.pth")["state_dict"]
    assert list(found) == list(want)
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert found["llm.embed"].data_ptr() == found["llm.head"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_stays_and_the_sum_is_wide(tmp_path, dtype):
    """Ten checkpoints of 16 bits have the mean of float64, rounded once."""
    states = [state_of(i, dtype) for i in range(10)]
    for i, state in enumerate(states):
        torch.save({"state_dict": state}, tmp_path / f"{i}.pth")
    average([tmp_path / f"{i}.pth" for i in range(10)], tmp_path / "mean.pth")
    found = load_checkpoint(tmp_path / "mean.pth")["state_dict"]["llm.w"]
    mean = torch.stack([s["llm.w"].double() for s in states]).mean(0)
    assert found.dtype == dtype
    torch.testing.assert_close(found, mean.to(dtype), atol=1e-7 if dtype != torch.float64 else 1e-15, rtol=0)


def changed(path, change):
    state = torch.load(path, weights_only=True)
    change(state["state_dict"])
    torch.save(state, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("llm.w"), r"iter_200\.pth has no llm\.w, which .*iter_100\.pth has"),
        (lambda s: s.update(extra=torch.ones(1)), r"iter_100\.pth has no extra, which .*iter_200\.pth has"),
        (
            lambda s: s.update({"llm.w": torch.ones(3, 3)}),
            r"llm\.w is float32 \[3, 2\] in .*iter_100\.pth and float32 \[3, 3\] in .*iter_200\.pth",
        ),
        (lambda s: s["llm.count"].add_(1), r"llm\.count is int64 and differs between .*100.* and .*200"),
        (lambda s: s["llm.four_bits"].add_(1), r"llm\.four_bits is uint8 and differs .* not quantised"),
        (lambda s: s["llm.w"].fill_(float("nan")), r"iter_200\.pth: llm\.w holds values that are no finite"),
    ],
)
def test_what_has_no_mean(work_dir, tmp_path, change, message):
    """The first difference is named, and nothing is left."""
    changed(work_dir / "iter_200.pth", change)
    with pytest.raises(CheckpointError, match=message):
        average([work_dir], tmp_path / "mean.pth")
    assert not (tmp_path / "mean.pth").exists()


def test_what_was_asked_for_is_there(work_dir, tmp_path, llama_dir):
    """Too few checkpoints or weights, an output that exists, kinds that do not fit: one line each."""
    one, two = work_dir / "iter_100.pth", work_dir / "iter_200.pth"
    for sources, settings, message in (
        ([work_dir], {"last": 4}, "holds 3 checkpoints; there must be 4"),
        ([one], {}, "is one model: name at least two"),
        ([one, two], {"last": 2}, "--last is for a work dir"),
        ([one, two], {"weights": [1]}, "--weights has 1 number, and there are 2 sources"),
        ([one, two], {"weights": [1, -1]}, "--weights has -1: write numbers above 0"),
        ([one, two], {"exact": True}, "--exact is for adapter folders"),
        ([one, llama_dir], {}, "cannot be averaged together"),
    ):
        with pytest.raises(ConfigError, match=message):
            average(sources, tmp_path / "mean.pth", **settings)
    with pytest.raises(NotFoundError, match="there is no work dir 'work_dirs/none'"):
        average(["work_dirs/none"], tmp_path / "mean.pth", last=3)
    with pytest.raises(ConfigError, match=r"iter_300\.pth exists"):
        average([one, two], work_dir / "iter_300.pth")


def test_model_folders_keep_their_files(llama_dir, tmp_path):
    """Each file with the mean of its tensors, in its place; the model that loads has the mean of both."""
    from xtuner.convert.split import split

    split(llama_dir, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "b").glob("*.safetensors"):
        from safetensors.torch import load_file, save_file

        save_file({n: t + 1 for n, t in load_file(file).items()}, file, {"format": "pt"})
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    assert sorted(p.name for p in (tmp_path / "mean").iterdir()) == sorted(
        p.name for p in (tmp_path / "a").iterdir()
    )
    first, mean = Weights(tmp_path / "a"), Weights(tmp_path / "mean")
    assert all(torch.allclose(mean[n], first[n] + 0.5, atol=1e-6) for n in first)
    AutoModelForCausalLM.from_pretrained(tmp_path / "mean")


def test_the_mean_goes_the_way_of_a_checkpoint(
    llama_dir, tmp_path, write_config, make_adapter, run_state, save_checkpoint, caplog
):
    """pth_to_hf takes it; it says once that A and B are averaged separately."""
    from tests.convert.test_pth_to_hf import hf_files_of

    model, folder = make_adapter(llama_dir)
    files = hf_files_of(folder)
    paths = []
    for i in (1, 2):
        state = {n: t * i for n, t in run_state(model).items()}
        paths.append(save_checkpoint(state, files, f"iter_{i}.pth"))
    average(paths, tmp_path / "mean.pth")
    assert caplog.text.count("A and B of the adapters are averaged separately") == 1
    lora = "dict(type=LoraConfig, r=4, lora_alpha=8)"
    pth_to_hf(write_config(base=llama_dir, lora=lora), tmp_path / "mean.pth", tmp_path / "hf", fp32=True)
    found, first = Weights(tmp_path / "hf"), run_state(model)
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    torch.testing.assert_close(found[name], first["llm." + name.replace("A.", "A.default.")] * 1.5)


# ---- adapters ----


@torch.no_grad()
def logits_of(model):
    return model(input_ids=IDS, use_cache=False).logits.double()


def of_merged_weights(base, folders, parts, tmp_path):
    """Logits of the base with the weighted mean of the adapters' merged weights."""
    mean = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    total = {n: torch.zeros_like(t) for n, t in mean.state_dict().items()}
    for i, (folder, part) in enumerate(zip(folders, parts, strict=True)):
        merged = tmp_path / f"merged{i}"
        merge(base, folder, merged, device="cpu", check=False)
        state = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float64).state_dict()
        for name in total:
            total[name] += part * state[name]
    mean.load_state_dict(total)
    return logits_of(mean)


def of_adapter(base, folder):
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    return logits_of(PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False).double())


EXACT = {
    "alike": ({}, {}, [1, 1]),
    "weighted": ({}, {}, [3, 1]),
    "other ranks": ({"r": 2}, {"r": 8, "lora_alpha": 4}, [1, 1]),
    "rslora": ({"use_rslora": True}, {}, [2, 1]),
    "patterns": (
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
        {},
        [1, 2],
    ),
    "embedding and a whole layer": (
        {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head"]},
        [1, 2],
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact_is_the_mean_of_the_products(llama_dir, make_adapter, tmp_path, case, caplog):
    """Base and adapter give the logits of the mean of the merged models; the separate mean does not."""
    first, second, weights = EXACT[case]
    parts = [w / sum(weights) for w in weights]
    _, one = make_adapter(llama_dir, "one", **first)
    _, two = make_adapter(llama_dir, "two", **second)
    rewritten(two)
    average([one, two], tmp_path / "exact", weights=weights, exact=True)
    assert "averaged separately" not in caplog.text
    want = of_merged_weights(llama_dir, [one, two], parts, tmp_path)
    found = of_adapter(llama_dir, tmp_path / "exact")
    torch.testing.assert_close(found, want, atol=2e-6, rtol=0)
    if case == "weighted":
        average([one, two], tmp_path / "separate", weights=weights)
        assert (of_adapter(llama_dir, tmp_path / "separate") - want).abs().max() > 1e-3


def rewritten(folder):
    """Other numbers in the adapter of `folder`."""
    from safetensors.torch import load_file, save_file

    random = torch.Generator().manual_seed(5)
    path = folder / "adapter_model.safetensors"
    tensors = {n: t + torch.randn(t.shape, generator=random) * 0.1 for n, t in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def test_equal_weights_round_nothing(llama_dir, make_adapter, tmp_path):
    """Of 16 bits, A and B of all stand in the new one as they are; alpha stays, the rank is the sum."""
    _, one = make_adapter(llama_dir, "one", dtype=torch.bfloat16)
    shutil.copytree(one, tmp_path / "two")
    rewritten(tmp_path / "two")
    folders = [one, tmp_path / "two", one]
    average(folders, tmp_path / "exact", exact=True)
    config = json.loads((tmp_path / "exact" / "adapter_config.json").read_text())
    sizes = [config[k] for k in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")]
    assert sizes == [12, 8, False, {}, {}]
    found, all_weights = Weights(tmp_path / "exact"), [Weights(f) for f in folders]
    for name in found:
        want = torch.cat([w[name] for w in all_weights], 0 if "lora_A" in name else 1)
        assert torch.equal(found[name], want), name


@pytest.mark.parametrize(
    ("lora", "exact", "message"),
    [
        ({"lora_alpha": 16}, False, r"lora_alpha is 8 in .*one and 16 in .*two: .*; --exact joins them"),
        ({"target_modules": ["q_proj"]}, True, r"target_modules is \['down_proj', 'q_proj'\] in .*one and"),
        ({"use_dora": True}, True, r"use_dora is None in .*one and True in .*two"),
    ],
)
def test_adapters_that_differ(llama_dir, make_adapter, tmp_path, lora, exact, message):
    _, one = make_adapter(llama_dir, "one")
    _, two = make_adapter(llama_dir, "two", **lora)
    with pytest.raises(CheckpointError, match=message):
        average([one, two], tmp_path / "mean", exact=exact)
    assert not (tmp_path / "mean").exists()


def test_magnitudes_have_no_exact_mean(llama_dir, make_adapter, tmp_path):
    _, one = make_adapter(llama_dir, "one", use_dora=True)
    with pytest.raises(CheckpointError, match="has use_dora: no adapter is the exact mean of such"):
        average([one, one], tmp_path / "mean", exact=True)


def test_memory_is_that_of_one_tensor(tmp_path):
    """Four checkpoints with forty tensors of 1 MB: never more than a few are held."""
    import threading

    for i in range(4):
        state = {f"llm.{n}": torch.full((512, 512), float(i + n)) for n in range(40)}
        save_checkpoint({"state_dict": state}, tmp_path / f"iter_{i}.pth")
    del state
    done, most = threading.Event(), [0]

    def own():
        text = (tmp_path.__class__("/proc/self/status")).read_text()
        return int(text.partition("RssAnon:")[2].split()[0])

    def watch():
        while not done.wait(0.001):
            most[0] = max(most[0], own())

    average([tmp_path / f"iter_{i}.pth" for i in range(2)], tmp_path / "warm.pth")
    before = own()
    thread = threading.Thread(target=watch)
    thread.start()
    average([tmp_path], tmp_path / "mean.pth")
    done.set()
    thread.join()
    assert most[0] - before < 20_000  # KB; the mean alone has 40 MB, all sources 160 MB


def test_a_tied_weight_of_a_sharded_one_is_read_by_its_first_name(work_dir, tmp_path):
    convert_checkpoint(work_dir / "iter_100.pth", tmp_path / "iter_1.pth", sharded=True)
    weights = CheckpointWeights(tmp_path / "iter_1.pth")
    assert weights.is_sharded
    for name, tensor in state_of(100).items():
        assert torch.equal(weights[name], tensor)
