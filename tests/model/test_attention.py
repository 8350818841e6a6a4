import copy
import itertools

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from xtuner.errors import ModelError
from xtuner.families import FAMILIES
from xtuner.model import attention
from xtuner.model.attention import packed_batch, packed_inputs

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "num_key_value_heads": 4,
}
WINDOW = {"sliding_window": 4}
OWN = {
    "cohere2": WINDOW,
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "exaone4": WINDOW,
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "glm4_moe": {**MLA, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
    "ministral": WINDOW,
    "mistral": WINDOW,
    "mixtral": {**MOE, **WINDOW},
    "olmo3": WINDOW,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi3": WINDOW,
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 16},
    "qwen3_moe": MOE,
    "starcoder2": WINDOW,
}
BORDERS = [0, 10, 17, 24]


def make(family, implementation="xtuner", **changes):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**TINY, **OWN.get(family, {}), **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    if implementation:
        model.set_attn_implementation(implementation)
    return model


def ids(length=24):
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.packs])
def test_packed_logits_equal_those_of_each_sample_alone(family, relative_error):
    """For every family we claim: ours on a packed row gives what stock attention gives sample by sample."""
    if family not in CONFIG_MAPPING:
        pytest.skip("not in this transformers")
    model, row = make(family), ids()
    with torch.no_grad(), packed_batch():
        packed = model(**packed_inputs(row, BORDERS)).logits[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        alone = [
            model(row[:, a:b], attention_mask=torch.ones(1, b - a), use_cache=False).logits[0]
            for a, b in itertools.pairwise(BORDERS)
        ]
    assert relative_error(packed, torch.cat(alone)) < 3e-6


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_gradients_of_a_packed_row_are_the_sum_of_its_samples(family, relative_error):
    """Backward keeps the samples apart too: plain, soft-capped and windowed attention."""
    ours, stock, row = make(family).double(), make(family, "eager").double(), ids()
    with packed_batch():
        ours(**packed_inputs(row, BORDERS)).logits.square().sum().backward()
    for a, b in itertools.pairwise(BORDERS):
        stock(row[:, a:b], use_cache=False).logits.square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) < 2e-6, name  # stock softmax is fp32


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text", "internlm2"])
def test_generation_with_padding_equals_stock_attention(family):
    """Without packed samples ours is sdpa with its masks, soft cap included."""
    model, row = make(family, max_position_embeddings=64), ids(20).view(2, 10)
    mask = torch.ones_like(row)
    mask[0, :4] = 0
    wanted = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ours = model.generate(row, **wanted)
    model.set_attn_implementation("eager")
    assert ours.tolist() == model.generate(row, **wanted).tolist()


def test_no_square_mask_is_made_for_a_packed_row():
    """transformers' mask step returns nothing within `packed_batch`, and a mask outside of it."""
    from transformers.masking_utils import create_causal_mask

    model, row = make("llama"), ids()
    embeddings = model.get_input_embeddings()(row)
    # Without a mask for padding and without a cache, whose name is another one since transformers 5.24.
    inputs = (model.config, embeddings, None, None, packed_inputs(row, BORDERS)["position_ids"])
    with packed_batch():
        assert create_causal_mask(*inputs) is None
    assert create_causal_mask(*inputs).shape == (1, 1, 24, 24)


def test_a_window_is_applied_by_blocks_of_queries(monkeypatch):
    """A long sample under a window gives the same output whatever the block is."""
    model, row = make("mistral"), ids()
    with torch.no_grad(), packed_batch():
        whole = model(**packed_inputs(row, [0, 24])).logits
        monkeypatch.setattr(attention, "QUERY_BLOCK", 5)
        torch.testing.assert_close(model(**packed_inputs(row, [0, 24])).logits, whole)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), softcap=0.0,
):  # fmt: skip
    """What FlashAttention documents for this function, with all scores: rows `[N, H, D]`."""
    assert (cu_seqlens_q is cu_seqlens_k, max_seqlen_q, dropout_p, causal) == (True, max_seqlen_k, 0.0, True)
    left, right = (reach if reach >= 0 else len(q) for reach in window_size)
    place = torch.arange(len(q))
    sample = torch.bucketize(place, cu_seqlens_q[1:], right=True)
    ahead = place[None] - place[:, None]
    seen = (sample[:, None] == sample[None]) & (ahead <= 0) & (-ahead <= left) & (ahead <= right)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("window", "softcap", "scaling"), [(None, None, None), (3, None, 0.5), (None, 2.0, None)]
)
def test_flash_attention_is_asked_for_what_is_computed_without_it(version, window, softcap, scaling):
    """Version 3 may return more than the result."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    borders = [0, 2, 8, 9]

    def flash(*args, **kwargs):
        out = flash_attn_varlen_func(*args, **kwargs)
        return out if version == 2 else (out, None)

    ours = attention._flash_attn(
        flash, query, key, value, torch.tensor(borders), 6, scaling, 0.0, window, softcap
    )
    wanted = attention._by_segment(query, key, value, borders, scaling, 0.0, window, softcap)
    torch.testing.assert_close(ours, wanted)


def test_a_package_without_the_function_is_no_flash_attention(tmp_path, monkeypatch, caplog):
    """FlashAttention 4 leaves a folder of that name; one made for another torch is said not to load."""
    (tmp_path / "flash_four" / "cute").mkdir(parents=True)
    (tmp_path / "flash_broken.py").write_text("raise ImportError('undefined symbol')")
    (tmp_path / "flash_there.py").write_text("def flash_attn_varlen_func(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    found = {name: attention._flash_function(f"flash_{name}") for name in ("four", "broken", "there", "gone")}
    assert [name for name, function in found.items() if function] == ["there"]
    assert "flash_broken is installed and does not load, so it is not used: undefined symbol" in caplog.text


def test_dropout_is_applied_in_training_only():
    """attention_dropout reaches the packed path."""
    model = make("llama", attention_dropout=0.5)
    with torch.no_grad(), packed_batch():
        calm = [model(**packed_inputs(ids(), BORDERS)).logits for _ in range(2)]
        model.train()
        wild = [model(**packed_inputs(ids(), BORDERS)).logits for _ in range(2)]
    assert torch.equal(*calm)
    assert not torch.equal(*wild)


def test_neighbours_of_one_length_are_one_call():
    """Runs are (start, length, count); empty samples vanish."""
    assert list(attention._equal_runs([0, 4, 8, 8, 12, 15])) == [(0, 4, 2), (8, 4, 1), (12, 3, 1)]


@pytest.mark.parametrize("family", ["bloom", "mpt", "gpt_oss", "nemotron"])
def test_families_that_mix_packed_samples_are_refused(family):
    """Known leaks by name, unknown ones by trial, with what to set instead."""
    own = {
        "bloom": {"n_layer": 2, "n_head": 4},
        "gpt_oss": MOE,
        "mpt": {"n_layers": 2, "n_heads": 4, "d_model": 32},
    }
    model = make(family, None, **own.get(family, {}))
    if attention.supports_attention(type(model), model.config):
        model.set_attn_implementation("xtuner")
    with pytest.raises(ModelError, match=f"'{family}' mix the samples .* set pack_to_max_length = False"):
        attention.check_isolation(model)


def test_an_unknown_family_that_isolates_is_accepted_and_left_as_it_was():
    """The trial restores mode and attention."""
    model = make("arcee").train()
    attention.check_isolation(model)
    assert model.training
    assert model.config._attn_implementation == "xtuner"


def test_attention_sinks_are_never_ignored():
    """A model with sinks that was forced onto our attention says so instead of computing something else."""
    model = make("gpt_oss", **MOE)
    with pytest.raises(ModelError, match="attention sinks: set attn_implementation = 'eager'"):
        model(ids())
    assert not attention.supports_attention(type(model), copy.copy(model.config))
