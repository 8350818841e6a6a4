import copy
import itertools

import pytest
import torch
from transformers import CONFIG_MAPPING

from tests.families.configs import make
from xtuner.errors import ModelError
from xtuner.families import FAMILIES
from xtuner.model import SupervisedFinetune, attention, attention_kernels
from xtuner.model.attention import PackedMask, packed_batch
from xtuner.model.packed import packed_inputs

BOUNDARIES = [0, 10, 17, 24]


def ids(length=24):
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "family", [n for n, family in FAMILIES.items() if family.packs and not family.own_attention]
)
def test_packed_logits_equal_those_of_each_sample_alone(family, relative_error):
    """For every supported family, ours on a pack equals stock attention sample by sample."""
    if family not in CONFIG_MAPPING:
        pytest.skip("not in this transformers")
    model, row = make(family), ids()
    with torch.no_grad(), packed_batch(BOUNDARIES):
        packed = model(**packed_inputs(row, BOUNDARIES)).logits[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        alone = [
            model(row[:, a:b], attention_mask=torch.ones(1, b - a), use_cache=False).logits[0]
            for a, b in itertools.pairwise(BOUNDARIES)
        ]
    assert relative_error(packed, torch.cat(alone)) < 3e-6


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_gradients_of_a_pack_are_the_sum_of_its_samples(family, relative_error):
    """Backward isolates the samples too: plain, soft-capped and windowed attention."""
    ours, stock, row = make(family).double(), make(family, "eager").double(), ids()
    with packed_batch(BOUNDARIES):
        ours(**packed_inputs(row, BOUNDARIES)).logits.square().sum().backward()
    for a, b in itertools.pairwise(BOUNDARIES):
        stock(row[:, a:b], use_cache=False).logits.square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert relative_error(p.grad, q.grad) < 2e-6, name  # stock softmax is fp32


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "internlm2"])
def test_generation_with_padding_equals_stock_attention(family):
    """Without packed samples ours is sdpa with its masks, soft cap and sinks included."""
    model, row = make(family), ids(20).view(2, 10)
    mask = torch.ones_like(row)
    mask[0, :4] = 0
    wanted = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ours = model.generate(row, **wanted)
    model.set_attn_implementation("eager")
    assert ours.tolist() == model.generate(row, **wanted).tolist()


def mask_inputs(model, row):
    """Of transformers' masks; none for padding, and no cache, whose name is another one since 5.24."""
    embeddings = model.get_input_embeddings()(row)
    return model.config, embeddings, None, None, packed_inputs(row, BOUNDARIES)["position_ids"]


def test_no_square_mask_is_made_for_a_pack():
    """Within `packed_batch` transformers' masks are PackedMasks, outside of it they are tensors."""
    from transformers import masking_utils as masks

    inputs = mask_inputs(make("llama4_text"), ids())
    inputs[0].sliding_window = 5
    with packed_batch(BOUNDARIES):
        assert masks.create_causal_mask(*inputs) == PackedMask(BOUNDARIES)
        assert masks.create_sliding_window_causal_mask(*inputs) == PackedMask(BOUNDARIES, window=5)
        assert masks.create_chunked_causal_mask(*inputs) == PackedMask(BOUNDARIES, chunk=4)
        assert masks.create_bidirectional_mask(*inputs[:3]) is None
        blocks = {"block_sequence_ids": torch.zeros(1, 24, dtype=torch.long)}
        for more in ({"or_mask_function": masks.bidirectional_mask_function}, blocks):
            with pytest.raises(ModelError, match="asks for a mask of its own: set attn_implementation"):
                masks.create_causal_mask(*inputs, **more)
        for unknown in (
            masks.bidirectional_mask_function,
            masks.and_masks(masks.causal_mask_function, masks.padding_mask_function(torch.ones(1, 24))),
            masks.and_masks(masks.or_masks(masks.causal_mask_function), masks.causal_mask_function),
        ):
            with pytest.raises(ModelError, match="asks for a mask of its own"):
                attention._mask(config=inputs[0], kv_length=24, mask_function=unknown)
        window = masks.sliding_window_causal_mask_function(5)
        with pytest.raises(ModelError, match="asks for a window of unknown length"):
            attention._mask(config=inputs[0], kv_length=24, mask_function=window, window=5)
    assert masks.create_causal_mask(*inputs).shape == (1, 1, 24, 24)


@pytest.mark.parametrize(
    ("mask", "asked", "message"),
    [
        (PackedMask([0, 2, 5]), {"indices": torch.zeros(1)}, "'indices'"),
        (PackedMask([0, 2, 5]), {"position_bias": torch.zeros(1)}, "'position_bias'"),
        (PackedMask([0, 2, 5]), {"is_causal": False}, "tokens that come later"),
        (torch.zeros(1, 1, 5, 5), {}, "a mask of its own"),
        (None, {}, "a mask of its own"),
    ],
)
def test_features_of_a_family_are_supported_or_refused(mask, asked, message):
    """A pack supports windows, chunks, caps and sinks; anything else is an error."""
    x, boundaries = torch.randn(1, 2, 5, 4), torch.tensor([0, 2, 5], dtype=torch.int32)
    with pytest.raises(ModelError, match=f"asks for {message}: set attn_implementation = 'eager'"):
        attention.attention(
            torch.nn.Module(), x, x, x, mask, cu_seq_lens_q=boundaries, max_length_q=3, **asked
        )


def test_the_cure_of_these_errors_trains(relative_error):
    """A bidirectional Llama: with 'eager' each sample is run by itself, as by stock code."""
    model = make("llama", is_causal=False)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    reference = copy.deepcopy(model)
    reference.set_attn_implementation("eager")
    row = ids()
    data = {"input_ids": row, "labels": row, "cumulative_len": [torch.tensor(BOUNDARIES)]}
    ours = SupervisedFinetune(model, use_activation_checkpointing=False).eval()
    with pytest.raises(ModelError, match=r"set attn_implementation = 'eager' in model\.llm"):
        ours(data)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = ours(data, mode="predict")[0]["logits"]
        alone = [reference(row[:, a:b]).logits[0] for a, b in itertools.pairwise(BOUNDARIES)]
    assert relative_error(logits, torch.cat(alone)) < 3e-6


def test_chunks_are_counted_from_the_first_token_of_a_sample():
    """A sample ends its last, incomplete chunk."""
    assert attention_kernels._cut([0, 10, 12, 16], 4) == [0, 4, 8, 10, 12, 16]


@pytest.mark.parametrize("family", ["gpt_oss", "granite_swa"])
def test_sinks_are_exact(family, relative_error):
    """Logits and gradients, including those of sinks, in float64 against stock code sample by sample."""
    ours, stock, row = make(family).double(), make(family, "eager").double(), ids()
    for model in (ours, stock):
        model.set_experts_implementation("eager")
    with packed_batch(BOUNDARIES):
        packed = ours(**packed_inputs(row, BOUNDARIES)).logits[0]
    alone = torch.cat(
        [stock(row[:, a:b], use_cache=False).logits[0] for a, b in itertools.pairwise(BOUNDARIES)]
    )
    packed.square().sum().backward()
    alone.square().sum().backward()
    exact = 1e-12 if family == "gpt_oss" else 1e-6  # the other's own code scales in fp32
    assert relative_error(packed, alone) < exact
    for (name, p), q in zip(ours.named_parameters(), stock.named_parameters(), strict=True):
        assert relative_error(p.grad, q[1].grad) < 10 * exact, name


def test_a_window_is_applied_by_blocks_of_queries(monkeypatch):
    """A long sample under a window has the same output for any block size."""
    model, row = make("mistral"), ids()
    with torch.no_grad(), packed_batch([0, 24]):
        whole = model(**packed_inputs(row, [0, 24])).logits
        monkeypatch.setattr(attention_kernels, "QUERY_BLOCK", 5)
        torch.testing.assert_close(model(**packed_inputs(row, [0, 24])).logits, whole)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), softcap=0.0,
):  # fmt: skip
    """The documented result of this function of FlashAttention, from all scores: `[N, H, D]`."""
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
def test_flash_attention_gets_the_arguments_for_the_same_result(
    version, window, softcap, scaling, monkeypatch
):
    """Version 3 may return a tuple."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    boundaries = [0, 2, 8, 9]

    def flash(*args, **kwargs):
        out = flash_attn_varlen_func(*args, **kwargs)
        return out if version == 2 else (out, None)

    monkeypatch.setattr(attention_kernels, "_flash_function", lambda package: flash)
    call = attention_kernels.Call(
        query,
        key,
        value,
        torch.tensor(boundaries),
        boundaries,
        6,
        scaling=scaling,
        window=window,
        softcap=softcap,
    )
    ours, wanted = attention_kernels._flash_attention(call, "flash_attn"), attention_kernels._by_run(call)
    torch.testing.assert_close(ours, wanted)


def test_a_package_without_the_function_is_not_used(tmp_path, monkeypatch, caplog):
    """FlashAttention 4 has a folder of that name; a build for another torch is logged as not importable."""
    (tmp_path / "flash_four" / "cute").mkdir(parents=True)
    (tmp_path / "flash_broken.py").write_text("raise ImportError('undefined symbol')")
    (tmp_path / "flash_there.py").write_text("def flash_attn_varlen_func(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    found = {
        name: attention_kernels._flash_function(f"flash_{name}")
        for name in ("four", "broken", "there", "gone")
    }
    assert [name for name, function in found.items() if function] == ["there"]
    assert (
        "flash_broken is installed but cannot be loaded, so it is not used: undefined symbol" in caplog.text
    )


def test_dropout_is_applied_in_training_only():
    """attention_dropout reaches the packed path."""
    model = make("llama", attention_dropout=0.5)
    with torch.no_grad(), packed_batch(BOUNDARIES):
        calm = [model(**packed_inputs(ids(), BOUNDARIES)).logits for _ in range(2)]
        model.train()
        wild = [model(**packed_inputs(ids(), BOUNDARIES)).logits for _ in range(2)]
    assert torch.equal(*calm)
    assert not torch.equal(*wild)


def test_neighbours_of_one_length_are_one_call():
    """Runs are (start, length, count), without empty samples."""
    assert list(attention_kernels._equal_runs([0, 4, 8, 8, 12, 15])) == [(0, 4, 2), (8, 4, 1), (12, 3, 1)]


def by_square(call):
    """`[1, N, H, D]` from all scores in float64."""
    query, key, value = (x.double() for x in (call.query, call.key, call.value))
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    number = torch.arange(query.shape[2])
    sample = torch.bucketize(number, call.starts[1:], right=True)
    seen = (sample[:, None] == sample) & (number[:, None] >= number)
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + call.key_bias.double()[:, None]
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("run", [attention_kernels._blocks, attention_kernels._by_run])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float64, 1e-12), (torch.float32, 2e-4), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)],
)
def test_a_large_bias_of_keys_loses_no_more_than_fp32_does(dtype, bound, run, relative_error):
    """Of 2,000 and more, which 16 bits round to multiples of 8; queries have more heads than keys."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 500, 8).to(dtype) for heads in (4, 2, 2))
    bias = 2000 + 2.0 ** -torch.arange(1, 5)[:, None] * torch.arange(500) + torch.rand(4, 500)
    boundaries = [0, 300, 301, 500]
    call = attention_kernels.Call(query, key, value, torch.tensor(boundaries), boundaries, 300, key_bias=bias)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    found, wanted = run(call), by_square(call)
    assert found.dtype == dtype
    assert relative_error(found.double(), wanted) < bound
    weights = torch.randn(wanted.shape, dtype=torch.float64)
    gradients = (
        torch.autograd.grad(found, leaves, weights.to(dtype)),
        torch.autograd.grad(wanted, leaves, weights),
    )
    for ours, exact in zip(*gradients, strict=True):
        assert relative_error(ours.double(), exact.double()) < 2 * bound
