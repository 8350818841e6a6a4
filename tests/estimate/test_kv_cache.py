"""The KV cache of sampling, as `xtuner check` estimates it, beside the tensors that the engine holds."""

import dataclasses
import json

import peft
import pytest
import torch

from tests.families.configs import make_model
from tests.generation.test_engine import without_end
from xtuner.blocks import CACHE_ROOM
from xtuner.estimate.fixes import fixes
from xtuner.estimate.forecast import forecast, memory_lines
from xtuner.estimate.kv_cache import Cached, Sampled, cache_bytes, read_cached
from xtuner.estimate.memory import size_text
from xtuner.estimate.processes import Division, process_memory
from xtuner.families import FAMILIES, Sizes
from xtuner.generation.engine import Engine
from xtuner.generation.generate import make_request
from xtuner.generation.request import Sampling
from xtuner.generation.shared_prompt import share_prompts

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPT, VIRTUAL = 40, 3


def config_of(folder, answer, lora, **rollouts):
    return {
        "model": {"type": "GRPO", "llm": {"pretrained_model_name_or_path": str(folder)}, "lora": lora},
        "optim_wrapper": {"type": "OptimWrapper"},
        "train_dataloader": {"batch_size": 2, "dataset": {"max_length": PROMPT}},
        "rollouts": {"count": 3, "max_new_tokens": answer, **rollouts},
    }


def tensors_of(cache):
    """The tensors of all layers."""
    for layer in cache.layers if cache else ():
        for value in vars(layer).values():
            values = value.values() if isinstance(value, dict) else value
            for tensor in values if isinstance(values, (list, tuple, type({}.values()))) else [values]:
                if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                    yield tensor


@torch.no_grad()
def held_bytes(model, tokenizer, answer):
    """The most bytes of the caches of three answers each to two prompts, until the last is chosen."""
    most = 0

    def look(_event):
        nonlocal most
        if max(len(request.ids) for request in requests) > answer:
            return
        held = [t.untyped_storage() for group in engine._groups for t in tensors_of(group.batch._cache)]
        most = max(most, sum({s.data_ptr(): s.nbytes() for s in held}.values()))

    requests = [
        make_request(model, list(range(start, start + PROMPT)), Sampling(answer + 1, seed=n), look)
        for start in (10, 60)
        for n in range(3)
    ]
    share_prompts(requests)
    engine, waiting = Engine(model, without_end(tokenizer)), iter(requests)
    while engine.step(lambda: next(waiting, None)):
        pass
    return most


@pytest.mark.parametrize(
    ("family", "dtype", "answer", "changes"),
    [
        ("llama", "float32", CACHE_ROOM + 20, {}),
        ("llama", "bfloat16", 6, {"num_key_value_heads": 1}),
        ("mistral", "bfloat16", 6, {"sliding_window": 30}),
        ("gemma3_text", "bfloat16", 6, {"sliding_window": 70}),
        ("gpt_oss", "float32", 6, {}),
        ("deepseek_v3", "bfloat16", 6, {}),
        ("qwen3_next", "bfloat16", 6, {}),
        ("llama-virtual", "bfloat16", CACHE_ROOM + 20, {}),
    ],
)
def test_the_estimate_is_what_the_engine_holds(family, dtype, changes, answer, tokenizer, tmp_path):
    """Windows no more than their tokens, states once, virtual tokens before each answer."""
    name, _, virtual = family.partition("-")
    model = make_model(name, vocab_size=len(tokenizer), **changes).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    lora = {"type": "LoraConfig", "r": 4}
    if virtual:
        lora = {"type": "PrefixTuningConfig", "num_virtual_tokens": VIRTUAL}
        cfg = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
        model = peft.get_peft_model(model, cfg).to(getattr(torch, dtype)).eval()
    found = forecast(config_of(tmp_path, answer, lora))
    if dtype == "bfloat16" and found.training.weight_bytes == 4:
        pytest.skip("this CPU loads weights in fp32")
    assert found.training.sampled == Sampled(6, PROMPT + VIRTUAL * bool(virtual), answer)
    wanted = held_bytes(model, tokenizer, answer)
    assert found.memory.moments["sampling"]["KV cache"] == wanted
    text = (
        f"sampling holds up to 6 answers of {found.training.sampled.prompt} + {answer} tokens: a KV cache of "
    )
    assert memory_lines(found)[-1].strip() == text + size_text(wanted)


def test_every_family_with_known_sizes_is_counted(tokenizer, tmp_path):
    """From the fields of its config alone, also where those of older files do not name each layer."""
    from tests.families.configs import OWN

    for family in (name for name, row in FAMILIES.items() if row.sizes is not None and name in OWN):
        model = make_model(family, vocab_size=len(tokenizer))
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        model.save_pretrained(tmp_path / family)
        found = forecast(config_of(tmp_path / family, 3, {"type": "LoraConfig"}))
        if found.training.weight_bytes == 4:
            assert found.memory.moments["sampling"]["KV cache"] == held_bytes(model, tokenizer, 3), family


@pytest.mark.parametrize(
    ("family", "fields", "full", "windows"),
    [
        ("mistral", {"sliding_window": 4096}, 0, 12),
        ("mistral", {"sliding_window": None}, 12, 0),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, 12, 0),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 9}, 9, 3),
        ("gemma2", {"sliding_window": 4096}, 6, 6),
        ("gemma3_text", {"sliding_window": 512}, 2, 10),
        ("gemma3_text", {"sliding_window": 512, "sliding_window_pattern": 4}, 3, 9),
        ("llama4_text", {"attention_chunk_size": 8192}, 3, 9),
        ("gemma3n_text", {"layer_types": ["full_attention"] * 12, "num_kv_shared_layers": 5}, 7, 0),
    ],
)
def test_layers_with_windows(family, fields, full, windows):
    """As transformers divides them, by the fields that configs have had."""
    cfg = {"num_hidden_layers": 12, "num_attention_heads": 4, **fields}
    found = read_cached(cfg, FAMILIES[family].sizes or Sizes(), 64)
    assert (found.full, found.windows, found.width) == (full, windows, 128)


def test_a_cache_by_hand():
    """Two answers of 10 + 5 tokens: 10 + 257 in two layers, 8 in one, a state in fp32."""
    cached = Cached(full=2, windows=1, window=8, width=16, convolutions=12, states=100)
    row = (2 * (10 + CACHE_ROOM + 1) + 8) * 16 * 2 + 12 * 2 + 100 * 4
    assert cache_bytes(cached, Sampled(2, 10, 5), 2, 2) == 2 * row


def test_answers_at_a_time(llama_dir):
    """Those of an update, or of validation if they are more, at most `max_running`; cut at the context."""

    def sampled(answer=8, validation=None, **rollouts):
        config = config_of(llama_dir, answer, {"type": "LoraConfig"}, **rollouts)
        return forecast({**config, "val_dataloader": validation}).training.sampled

    context = json.loads((llama_dir / "config.json").read_text())["max_position_embeddings"]
    assert sampled() == Sampled(6, PROMPT, 8)
    assert sampled(max_running=4).rows == 4
    assert sampled(validation={"held_out": 0.1}).rows == 64
    assert sampled(validation={"held_out": 10}).rows == 10
    assert sampled(answer=10**6) == Sampled(6, PROMPT, context - PROMPT)


def test_with_fsdp_each_process_samples_with_the_whole_weights(llama_dir):
    """Which it gathers beside its part of them."""
    found = forecast(config_of(llama_dir, 8, {"type": "LoraConfig", "r": 4}))
    parts = process_memory(found.shape, found.training, Division("fsdp", 4, 4)).device.moments["sampling"]
    assert parts["KV cache"] == found.memory.moments["sampling"]["KV cache"]
    assert parts["gathered"] >= found.memory.kept["weights"]


def test_what_saves_memory_where_answers_are_sampled(llama_dir):
    """Fewer at a time if the cache needs most; batches of an update are divided without other prompts."""
    config = config_of(llama_dir, 400, {"type": "LoraConfig", "r": 4})
    found = forecast(config)
    many = dataclasses.replace(found.training, sampled=Sampled(4000, PROMPT, 400))
    assert fixes(found.shape, many)[0].text == "rollouts.max_running = 2000"
    batch = dataclasses.replace(found.training, batch=4096, tokens=4096 * 440)
    texts = [fix.text for fix in fixes(found.shape, batch)]
    assert texts[0] == "optim_wrapper.accumulative_counts = 2"
    assert "rollouts.max_new_tokens = 200" in texts
