"""Adapters of peft besides LoRA: the table is complete and true, training equals a plain loop with peft."""

import inspect
import warnings
from pathlib import Path

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from tests.model.conftest import SIZES, pack_of
from xtuner.convert.merge import merge
from xtuner.convert.pth_to_hf import pth_to_hf
from xtuner.engine.environment import adapter_files
from xtuner.errors import ConfigError, ModelError
from xtuner.model import SupervisedFinetune, adaptive_ranks
from xtuner.model.adapter_methods import LINEAR, METHODS, OWN, PROMPT
from xtuner.model.fused.layers import unfuse
from xtuner.model.lora import attach_adapter
from xtuner.model.packed import pack

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
# For the tiny model.
SMALL = {
    "ADALORA": {"init_r": 4, "target_r": 2, "tinit": 0, "tfinal": 1, "total_step": 4},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 2},
    "WAVEFT": {"n_frequency": 64},
    **{name: {"num_virtual_tokens": 4} for name in METHODS if METHODS[name].adapts == PROMPT},
}
TRAINED = [name for name, method in METHODS.items() if method.trains]
# The others are as slow as they are many.
_QUICK = {"OFT", "ADALORA", "VERA", "TRAINABLE_TOKENS", "PREFIX_TUNING", "P_TUNING"}


def each(names):
    """Parameters of a test; types that add little to those before them are slow ones."""
    return [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


TOKEN_CHOICE = {"TRAINABLE_TOKENS": {"token_indices": list(range(3, 60))}}
LENGTHS = (4, 5, 6)
RUN = """
from peft import {name}
from xtuner.model import SupervisedFinetune
model = dict(
    type=SupervisedFinetune,
    llm=dict(pretrained_model_name_or_path={base!r}),
    lora=dict(type={name}))
"""


def settings(name):
    own = eval(f"dict({METHODS[name].settings})")  # the table's text, as a config has it
    return {**own, **SMALL.get(name, {}), **TOKEN_CHOICE.get(name, {})}


def config(name, **more):
    return getattr(peft, METHODS[name].config)(task_type="CAUSAL_LM", **settings(name), **more)


def llama(dtype=torch.float64):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.to(dtype)


def made(name, dtype=None):
    """A training module with that adapter, and the dtype of all of it."""
    dtype = dtype or (torch.float32 if name == "PSOFT" else torch.float64)  # peft's PSOFT has no float64
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SupervisedFinetune(llm=llama(dtype), lora=config(name))
    return _in_one_dtype(model.llm, dtype) and model.train(), dtype


def _in_one_dtype(llm, dtype):
    if hasattr(llm, "prompt_encoder"):
        llm.prompt_encoder.to(dtype)
    return llm


@pytest.fixture
def batch():
    item = pack_of(LENGTHS, torch.Generator().manual_seed(1))
    return {
        "input_ids": torch.from_numpy(item["input_ids"])[None],
        "labels": torch.from_numpy(item["labels"])[None],
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "cumulative_len": [torch.tensor(item["cumulative_len"], dtype=torch.int32)],
    }


def plain_loss(model, batch):
    """The mean over supervised tokens, each sample by itself through peft's own model and loss."""
    total, count, start = 0, 0, 0
    for length in LENGTHS:
        ids, labels = (batch[key][:, start : start + length] for key in ("input_ids", "labels"))
        here = int((labels[:, 1:] != -100).sum())
        total, count, start = (
            total + model(input_ids=ids, labels=labels).loss * here,
            count + here,
            start + length,
        )
    return total / count


def test_every_type_of_peft_has_a_row_with_its_class():
    """A peft with a new type fails here, until it has been compared."""
    classes = {str(kind.value): cls.__name__ for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    del classes["LORA"]
    assert {name: method.config for name, method in METHODS.items()} == classes


@pytest.mark.parametrize("name", each(TRAINED))
def test_three_updates_equal_those_of_a_plain_loop_with_peft(name, batch, monkeypatch):
    """Losses and gradients; samples are packed here and run one by one there."""
    if name == "PVERA":  # it draws numbers for each token
        monkeypatch.setattr(
            torch, "randn", lambda *sizes, **kwargs: torch.zeros(*sizes, dtype=kwargs.get("dtype"))
        )
        monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    ours, dtype = made(name)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = peft.get_peft_model(llama(dtype), ours.llm.peft_config["default"])
    _in_one_dtype(plain, dtype).train()
    models = {"ours": ours.llm, "plain": plain}
    optimizers = {
        key: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for key, model in models.items()
    }
    ranked = name == adaptive_ranks.TYPE
    if ranked:
        adaptive_ranks.start(ours.llm, optimizers["ours"], 4)
    for number in range(3):
        losses = {"ours": ours(batch)["loss"], "plain": plain_loss(plain, batch)}
        for loss in losses.values():
            loss.backward()
        assert losses["ours"].item() == pytest.approx(losses["plain"].item(), abs=1e-6)
        theirs = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
        assert theirs
        largest = max(grad.abs().max() for grad in theirs.values())
        for n, p in ours.llm.named_parameters():
            if p.requires_grad:
                own = torch.zeros_like(p) if p.grad is None else p.grad
                assert torch.allclose(
                    own, theirs.get(n, torch.zeros_like(p)), rtol=1e-5, atol=2e-6 * largest
                ), n
        for key, optimizer in optimizers.items():
            optimizer.step()
            if ranked and key == "plain":
                plain.base_model.update_and_allocate(number)
            optimizer.zero_grad()


def begun(name, folder, seed):
    """A model with an adapter of that type, and its optimizer."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = SupervisedFinetune(llm=base, lora=config(name)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    if adaptive_ranks.has_ranks(model.llm):
        adaptive_ranks.start(model.llm, optimizer, 4)
    return model, optimizer


def update(model, optimizer, batch, seed):
    """Train on the batch; returns its loss."""
    torch.manual_seed(seed)
    loss = model(batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("name", each(TRAINED))
def test_a_checkpoint_continues_with_the_same_losses(name, batch, tmp_path, llama_dir):
    """To the bit, on a model that began with other weights of the adapter."""
    model, optimizer = begun(name, llama_dir, 3)
    for seed in range(2):
        update(model, optimizer, batch, seed)
    saved = {n: t.clone() for n, t in model.state_dict().items()}
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "o.pth")
    other, other_optimizer = begun(name, llama_dir, 4)
    result = other.load_state_dict(saved)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    other_optimizer.load_state_dict(torch.load(tmp_path / "o.pth")["optimizer"])
    for seed in (5, 6):
        assert update(model, optimizer, batch, seed) == update(other, other_optimizer, batch, seed)


def converted(name, model, llama_dir, folder):
    """The folder of the adapter, by a checkpoint of the model."""
    checkpoint = {
        "state_dict": {n: t.clone() for n, t in model.state_dict().items()},
        "meta": {"hf_files": adapter_files(model.llm, None)},
    }
    torch.save(checkpoint, folder / "iter_4.pth")
    (folder / "c.py").write_text(RUN.format(base=str(llama_dir), name=METHODS[name].config))
    assert pth_to_hf(folder / "c.py", folder / "iter_4.pth", folder / "hf", fp32=True) == "adapter"
    return folder / "hf"


@pytest.mark.parametrize("name", each(TRAINED))
def test_a_checkpoint_becomes_a_folder_of_peft_and_merges(name, batch, tmp_path, llama_dir):
    """Logits through plain peft, through ours and through the merged model are equal to 1e-5."""
    model, optimizer = begun(name, llama_dir, 3)
    for seed in range(4):
        update(model, optimizer, batch, seed)
    folder, ids = converted(name, model, llama_dir, tmp_path), batch["input_ids"]
    unfuse(model.llm)

    def base():
        return AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.llm.eval()(input_ids=ids).logits
        assert (expected[:, -ids.shape[1] :] - base()(input_ids=ids).logits).abs().max() > 1e-4
        loaded = {"peft": peft.PeftModel.from_pretrained(base(), folder).eval()}
        loaded["ours"] = attach_adapter(base(), folder).eval()
        if METHODS[name].merges:
            assert merge(llama_dir, folder, tmp_path / "merged") < 1e-4
            loaded["merged"] = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        else:
            with pytest.raises(ModelError, match="cannot be merged"):
                merge(llama_dir, folder, tmp_path / "merged")
        for way, other in loaded.items():
            assert torch.allclose(other(input_ids=ids).logits, expected, atol=1e-5), way


def four_bit(folder):
    pytest.importorskip("bitsandbytes")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.float32)


@pytest.mark.parametrize("name", [n for n in TRAINED if not METHODS[n].quantised])
def test_what_peft_lacks_for_quantised_weights_is_refused(name, llama_dir):
    with pytest.raises(ConfigError, match="does not have for quantised weights: remove"):
        SupervisedFinetune(llm=four_bit(llama_dir), lora=config(name))


@pytest.mark.parametrize(
    "name", each(n for n in TRAINED if METHODS[n].quantised and METHODS[n].adapts == LINEAR)
)
def test_on_4_bits_it_trains_as_on_the_same_weights_in_full(name, llama_dir, batch):
    """The loss and the gradient norm, with an adapter that is not at its start."""
    import bitsandbytes

    found = []
    for whole in (False, True):
        base = four_bit(llama_dir)
        if whole:
            plain = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
            for layer, module in base.named_modules():
                if type(module).__name__ == "Linear4bit":
                    weight = module.weight
                    own = plain.get_submodule(layer).weight
                    codes = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
                    own.data = codes.float().reshape(own.shape)
            base = plain
        torch.manual_seed(3)
        model = SupervisedFinetune(llm=base, lora=config(name)).train()
        torch.manual_seed(4)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn(parameter.shape) * 0.01)
        loss = model(batch)["loss"]
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        found.append((loss.item(), norm.item()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].trains])
def test_what_does_not_train_says_why_in_one_line(name):
    """Before the model is loaded: there is none in the folder that it names."""
    cls = getattr(peft, METHODS[name].config)
    cfg = cls.__new__(cls)
    cfg.peft_type = name
    with pytest.raises(ConfigError) as error:
        SupervisedFinetune(llm=dict(pretrained_model_name_or_path="no_model"), lora=cfg)
    assert "\n" not in str(error.value)
    assert f"{cls.__name__}, which is not trained here: {METHODS[name].refused}" in str(error.value)


def test_settings_that_do_not_fit_are_one_line_of_the_config():
    with pytest.raises(
        ConfigError, match=r"^model\.lora: RoadConfig of peft does not fit LlamaForCausalLM: "
    ):
        SupervisedFinetune(llm=llama(), lora=peft.RoadConfig(group_size=48))


def test_a_disabled_adapter_has_no_virtual_tokens(batch):
    """The reference of DPO is the base: its log-probabilities are those without the adapter."""
    model, _ = made("PROMPT_TUNING")
    packed = pack(batch, torch.device("cpu"))
    base = SupervisedFinetune(llm=llama())
    with torch.no_grad():
        want = base.token_logprobs(base.passes_of(packed, with_loss=True)).logprobs
        own = model.token_logprobs(model.passes_of(packed, with_loss=True)).logprobs
        with model.llm.disable_adapter():
            found = model.token_logprobs(model.passes_of(packed, with_loss=True)).logprobs
    assert torch.allclose(found, want, atol=1e-6)
    assert not torch.allclose(own, want, atol=1e-3)


def test_what_made_virtual_tokens_is_not_in_a_folder(tmp_path, llama_dir):
    """So a folder does not train on."""
    model, _ = begun("P_TUNING", llama_dir, 3)
    model.llm.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)
    with pytest.raises(ModelError, match="virtual tokens without what made them: use --resume"):
        SupervisedFinetune(llm=base, peft_model=str(tmp_path))


def test_prefix_tuning_refuses_recomputation():
    with pytest.raises(ConfigError, match="set it to False"):
        SupervisedFinetune(llm=llama(), lora=config("PREFIX_TUNING"), use_activation_checkpointing=True)


def test_without_targets_all_linear_layers_but_the_head_are_adapted():
    model, _ = made("OFT")
    assert model.llm.peft_config["default"].target_modules == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


def table():
    """The rows of docs/adapters.md."""
    lines = []
    for name, method in sorted(METHODS.items(), key=lambda item: (not item[1].trains, item[1].config)):
        if not method.trains:
            lines.append(f"| `{method.config}` | **no**: {method.refused} | | | |")
            continue
        cls = PEFT_TYPE_TO_CONFIG_MAPPING[name]
        assert not method.settings or set(settings(name)) <= set(inspect.signature(cls).parameters)
        line = f"dict(type={method.config}{', ' if method.settings else ''}{method.settings})"
        marks = ["yes" if x else "no" for x in (method.quantised, method.merges, method.divides)]
        adapts = {LINEAR: "linear layers", OWN: "by family", PROMPT: "virtual tokens"}[method.adapts]
        lines.append(f"| `{line}` | {adapts} | {' | '.join(marks)} |")
    return "\n".join(lines)


def test_the_page_is_printed_from_the_table():
    page = (Path(__file__).parents[2] / "docs/adapters.md").read_text("utf-8")
    assert table() in page, f"the rows of docs/adapters.md should be:\n{table()}"
