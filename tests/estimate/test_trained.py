"""What is trained, and what optimizers keep of it: the estimate's numbers are those of built models."""

import importlib
import inspect
import json
import warnings

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.model.test_adapters import TRAINED, settings
from xtuner.config.optimizer_names import OPTIMIZERS
from xtuner.convert.expand import expand
from xtuner.engine.muon import by_matrix
from xtuner.engine.params import with_fastest_kernel
from xtuner.estimate.adapters import NAMES
from xtuner.estimate.configured import read_training
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.optimizers import read_states
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import optimizer_bytes, trained_weights
from xtuner.model import SupervisedFinetune
from xtuner.model.adapter_methods import METHODS
from xtuner.model.trained_layers import trained_part

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CARD = Machine("cuda", "GPU", 0, 0)


def built(family="llama", **model):
    """A model of that family, and the estimate of its training: the shape and the run."""
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES))
    shape = read_shape({**llm.config.to_dict(), "model_type": family})
    lora = model.pop("lora", None)
    cfg = {**model, **({"lora": lora} if lora else {})}
    run = read_training({"model": {"type": "SupervisedFinetune", **cfg}}, shape, CARD)
    if lora:
        kind = getattr(peft, lora["type"])
        model["lora"] = kind(task_type="CAUSAL_LM", **{k: v for k, v in lora.items() if k != "type"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = SupervisedFinetune(llm=llm, use_activation_checkpointing=False, **model)
    return ours, shape, run


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_each_adapter_that_trains_has_a_row():
    assert {METHODS[name].config for name in TRAINED} == NAMES


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("name", TRAINED)
def test_the_trained_weights_of_each_adapter_are_those_of_the_model(name, family):
    if name == "ADAPTION_PROMPT" and family == "qwen3":
        pytest.skip("peft has it for Llama and Mistral")
    model, shape, run = built(family, lora={"type": METHODS[name].config, **settings(name)})
    assert not run.is_full
    assert trained_weights(shape, run) == trained(model)
    assert estimate(shape, run).kept["adapter"] == 4 * trained(model)


@pytest.mark.parametrize(
    "lora",
    [
        {"type": "LoraConfig", "r": 4, "target_modules": ["q_proj", "down_proj"]},
        {"type": "OFTConfig", "oft_block_size": 24},
        {"type": "OFTConfig", "oft_block_size": 0, "r": 3},
        {"type": "OFTConfig", "block_share": True, "target_modules": ["q_proj"]},
        {"type": "BOFTConfig", "boft_block_size": 0, "boft_block_num": 4},
        {"type": "LoKrConfig", "r": 2, "decompose_both": True},
        {"type": "LoKrConfig", "r": 2, "decompose_factor": 7},
        {"type": "LoKrConfig", "r": 2, "decompose_factor": 4},
        {"type": "DeftConfig", "para": True},
        {"type": "GloraConfig", "config_A_B": "vector"},
        {"type": "GraloraConfig", "r": 16, "hybrid_r": 4},
        {"type": "MissConfig", "r": 16, "init_weights": "bat"},
        {"type": "MissConfig", "r": 16, "init_weights": "mini", "mini_r": 4},
        {"type": "OSFConfig", "effective_rank": 20},
        {"type": "PeanutConfig", "depth": 2},
        {"type": "PsoftConfig", "psoft_mag_a": False},
        {"type": "RoadConfig", "variant": "road_4", "group_size": 16},
        {"type": "RandLoraConfig", "r": 24},
        {"type": "SupertuningConfig", "sparsity": 0.9, "r": 4},
        {"type": "TinyLoraConfig", "weight_tying": 0.5},
        {"type": "TinyLoraConfig", "weight_tying": 0.7},
        {"type": "TinyLoraConfig", "weight_tying": 1.0},
        {"type": "VBLoRAConfig", "vector_length": 16, "num_vectors": 32},
        {"type": "IA3Config", "target_modules": ["q_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
        {"type": "LNTuningConfig", "target_modules": ["input_layernorm", "norm"]},
        {"type": "PrefixTuningConfig", "num_virtual_tokens": 5, "prefix_projection": True},
        {
            "type": "PromptEncoderConfig",
            "num_virtual_tokens": 5,
            "encoder_hidden_size": 24,
            "encoder_reparameterization_type": "LSTM",
        },
    ],
    ids=lambda lora: "-".join(str(value) for value in lora.values()),
)
def test_settings_of_an_adapter_count(lora):
    model, shape, run = built(lora=lora)
    assert trained_weights(shape, run) == trained(model)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_last_layers_alone(family, layers):
    """Of Gemma the head is the embedding, so it stays frozen."""
    model, shape, run = built(family, trained_layers=layers)
    assert trained_weights(shape, run) == trained(model)
    assert run.part == trained_part(model.llm)
    found = estimate(shape, run)
    assert found.moments["step"]["gradients"] == trained(model) * run.weight_bytes
    assert found.kept["optimizer"] == 2 * trained(model) * run.weight_bytes
    _, _, whole = built(family)
    assert found.moments["loss"]["activations"] < estimate(shape, whole).moments["loss"]["activations"]


def test_added_layers_alone(tmp_path, llama_dir):
    expand(llama_dir, tmp_path / "more", 1)
    config = json.loads((tmp_path / "more/config.json").read_text("utf-8"))
    shape = read_shape(config)
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "more", dtype=torch.float32)
    model = SupervisedFinetune(llm=llm, trained_layers="added", use_activation_checkpointing=False)
    run = read_training({"model": {"trained_layers": "added"}}, shape, CARD)
    assert trained_weights(shape, run) == trained(model)
    assert run.part == trained_part(model.llm)
    assert (run.part.layers, run.part.ends, run.part.embedding) == (1, False, False)


def test_a_frozen_language_model_trains_nothing_of_itself():
    shape = read_shape({**SIZES, "model_type": "llama"})
    run = read_training({"model": {"type": "LLaVAModel", "freeze_llm": True}}, shape, CARD)
    assert trained_weights(shape, run) == 0
    assert (estimate(shape, run).kept["adapter"], estimate(shape, run).kept["optimizer"]) == (0, 0)


def kept_by(optimizer):
    """The bytes of all states that grow with the weights; maps of 8 bits and numbers of steps do not."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.dim() and not name.startswith("qmap")
    )


@pytest.mark.parametrize("rank", [0, 32])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        *[(name, {}) for name in OPTIMIZERS],
        ("SGD", {"momentum": 0.9}),
        ("RMSprop", {"momentum": 0.9}),
        ("AdamW", {"amsgrad": True}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_states_of_an_optimizer_are_those_it_has_after_a_step(name, more, rank):
    """Of all weights, and of LoRA: some tensors have fewer than the 4,096 elements that go into 8 bits."""
    module, _, cls = OPTIMIZERS[name].rpartition(".")
    kind = getattr(pytest.importorskip(module.partition(".")[0]) and importlib.import_module(module), cls)
    model, shape, run = built(**({"lora": {"type": "LoraConfig", "r": rank}} if rank else {}))
    params = [p for p in model.parameters() if p.requires_grad]
    given = with_fastest_kernel({"lr": 1e-3, **more}, kind, params)
    given = {k: v for k, v in given.items() if k in inspect.signature(kind).parameters}
    optimizer = kind(by_matrix(model, params) if name == "Muon" else params, **given)
    if hasattr(optimizer, "train"):
        optimizer.train()
    ids = torch.randint(0, 512, (1, 8))
    model({"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})["loss"].backward()
    optimizer.step()
    run = read_training(
        {
            "model": {"lora": {"type": "LoraConfig", "r": rank}} if rank else {},
            "optim_wrapper": {"optimizer": {"type": OPTIMIZERS[name], **more}},
        },
        shape,
        CARD,
    )
    assert run.states == read_states(cls, more)
    assert optimizer_bytes(shape, run) == kept_by(optimizer)
    assert estimate(shape, run).kept["optimizer"] == kept_by(optimizer)
