"""Generation equals that of transformers and has no side effects."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from xtuner.errors import DataError, ModelError
from xtuner.generation.generate import KeptCache, complete

PROMPT = "<s><|User|>:hello<|Bot|>:"


@pytest.fixture
def model(llama_dir):
    return AutoModelForCausalLM.from_pretrained(llama_dir)


@pytest.fixture
def ids(tokenizer):
    return tokenizer.encode(PROMPT, add_special_tokens=False)


def reference(model, tokenizer, ids, **kwargs):
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
        **kwargs,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers(model, tokenizer, ids, penalty):
    """At temperature 0 the tokens equal those of `model.generate`, with a repetition penalty too."""
    expected = reference(model, tokenizer, ids, repetition_penalty=penalty)
    found = complete(model, tokenizer, ids, max_new_tokens=20, temperature=0, repetition_penalty=penalty)
    assert found.ids == expected


def test_text_and_stream_are_the_tokens(model, tokenizer, ids):
    """The text is that of the tokens, and the streamed pieces join to it."""
    pieces = []
    found = complete(model, tokenizer, ids, max_new_tokens=30, temperature=1.0, seed=3, on_text=pieces.append)
    assert found.finish == "length"
    assert len(found.ids) == 30
    assert "".join(pieces) == found.text
    assert found.text == tokenizer.decode(found.ids)
    assert found.tokens_per_second > 0


def test_same_seed_same_answer(model, tokenizer, ids):
    """A seed fixes the answer; another seed or none gives others."""
    answers = [
        complete(
            model, tokenizer, ids, max_new_tokens=20, temperature=2.0, top_k=0, top_p=1.0, seed=seed
        ).text
        for seed in (1, 1, 2, None, None)
    ]
    assert answers[0] == answers[1]
    assert len(set(answers)) == 4


def test_sampling_keeps_to_top_k_and_top_p(model, tokenizer, ids):
    """With one token to choose from, sampling is greedy."""
    expected = complete(model, tokenizer, ids, max_new_tokens=10, temperature=0).ids
    for limits in ({"top_k": 1, "top_p": 1.0}, {"top_k": 0, "top_p": 1e-6}):
        assert complete(model, tokenizer, ids, max_new_tokens=10, temperature=5.0, **limits).ids == expected


def test_stops_at_end_of_sequence_and_at_stop_words(model, tokenizer, ids):
    """The text ends before a stop word, the tokens include it; an end token ends both."""
    free = complete(model, tokenizer, ids, max_new_tokens=20, temperature=0)
    word = free.text[3:6]
    found = complete(model, tokenizer, ids, max_new_tokens=20, temperature=0, stop_words=[word])
    assert (found.text, found.finish) == (free.text[: free.text.index(word)], "stop")
    assert found.ids == free.ids[: len(found.ids)]
    model.generation_config.eos_token_id = [7, free.ids[4]]
    found = complete(model, tokenizer, ids, max_new_tokens=20, temperature=0)
    cut = free.ids.index(free.ids[4]) + 1
    assert (found.ids, found.finish) == (free.ids[:cut], "end")
    assert found.text == tokenizer.decode(free.ids[: cut - 1])


def test_generation_has_no_side_effects(model, tokenizer, ids):
    """The modes of modules, the random state and gradients are the same as without generation."""
    model.train()
    model.model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    complete(model, tokenizer, ids, max_new_tokens=5, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in model.modules()] == modes
    row = torch.tensor([ids])
    model(input_ids=row, labels=row, use_cache=False).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_modes_are_restored_after_an_error(model, tokenizer, ids):
    """After an interrupted answer a model in training mode is in training mode."""
    model.train()

    def interrupt(piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(model, tokenizer, ids, max_new_tokens=5, on_text=interrupt)
    assert all(m.training for m in model.modules())


def test_the_cache_is_kept_between_turns(model, tokenizer, ids, monkeypatch):
    """Tokens in the cache are not read again, and the answer is the same as without a cache."""
    cache = KeptCache()
    first = complete(model, tokenizer, ids, max_new_tokens=6, temperature=0, cache=cache)
    second = [*ids, *first.ids, 5, 6, 7]
    expected = complete(model, tokenizer, second, max_new_tokens=6, temperature=0)
    read = []
    forward = type(model).forward

    def watched(self, input_ids, **kwargs):
        read.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **kwargs)

    watched.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(type(model), "forward", watched)
    found = complete(model, tokenizer, second, max_new_tokens=6, temperature=0, cache=cache)
    assert found.ids == expected.ids
    assert read[0] <= 4
    assert complete(model, tokenizer, ids, max_new_tokens=6, temperature=0, cache=cache).ids == first.ids
    assert read[-6] == 1


def test_the_context_bounds_the_answer(tokenizer, ids):
    """An answer ends at the end of the context; a prompt that fills the context is an error."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=len(ids) + 4)
    config.bos_token_id = config.eos_token_id = None
    model = GPT2LMHeadModel(config)
    found = complete(model, tokenizer, ids, max_new_tokens=50, temperature=1.0, seed=0, top_k=0, top_p=1.0)
    assert len(found.ids) <= 4
    with pytest.raises(DataError, match="the prompt has 40 tokens; the model's context holds"):
        complete(model, tokenizer, [5] * 40)
    with pytest.raises(DataError, match="the prompt is empty"):
        complete(model, tokenizer, [])


def test_numbers_that_are_not_finite_are_an_error(model, tokenizer, ids):
    """A model that overflows is an error instead of a sample from NaN."""
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        complete(model, tokenizer, ids, max_new_tokens=3, temperature=1.0)
    with pytest.raises(ModelError, match="not finite"):
        complete(model, tokenizer, ids, max_new_tokens=3, temperature=0)
