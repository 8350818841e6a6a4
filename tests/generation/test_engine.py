"""A request alone, many together and transformers' own loop choose the same tokens."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OpenAIGPTConfig,
    OPTConfig,
    Qwen2Config,
)

from xtuner.generation.engine import Engine
from xtuner.generation.generate import answer, complete, make_request
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.request import End, Failed, Piece, Sampling

PROMPTS = [list(range(20, 27)), list(range(40, 52)), [9], [30, 31, 32, 30], list(range(60, 69))]
LENGTHS = [3, 12, 7, 1, 9]


def families(tokenizer):
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": None, "bos_token_id": 1, "pad_token_id": 3, "max_position_embeddings": 256}
    small = {**size, **ends, "intermediate_size": 64}
    gpt = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return {
        "llama": LlamaConfig(**small),
        "qwen2": Qwen2Config(**small, num_key_value_heads=2),
        "gemma3": Gemma3TextConfig(**small, num_key_value_heads=2, head_dim=8, sliding_window=8),
        "sliding": MistralConfig(**small, sliding_window=8, num_key_value_heads=2),
        "opt": OPTConfig(**{**size, **ends, "ffn_dim": 64, "word_embed_proj_dim": 32}),
        "mamba": MambaConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, eos_token_id=None
        ),
        "gpt": OpenAIGPTConfig(**gpt),
    }


@pytest.fixture
def llama(llama_dir):
    return AutoModelForCausalLM.from_pretrained(llama_dir).eval()


def together(model, tokenizer, prompts, samplings, **more):
    """The requests of `prompts` after their answers, and the events of each."""
    events = [[] for _ in prompts]
    requests = [
        make_request(model, prompt, sampling, heard.append)
        for prompt, sampling, heard in zip(prompts, samplings, events, strict=True)
    ]
    answer(model, tokenizer, requests, **more)
    return requests, events


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "sliding", "opt", "mamba", "gpt"])
@pytest.mark.filterwarnings("ignore")
def test_one_many_and_transformers_agree(family, tokenizer):
    """Greedy ids of a request alone, of many together and of `generate` are equal, also with kept caches."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families(tokenizer)[family]).eval()
    model.generation_config.eos_token_id = None
    tokenizer = without_end(tokenizer)
    samplings = [Sampling(max_new_tokens=n, temperature=0) for n in LENGTHS]
    requests, _ = together(model, tokenizer, PROMPTS, samplings)
    for prompt, length, request in zip(PROMPTS, LENGTHS, requests, strict=True):
        row = torch.tensor([prompt])
        mask = torch.ones_like(row)
        reference = model.generate(
            row, attention_mask=mask, max_new_tokens=length, do_sample=False, pad_token_id=3
        )
        expected = reference[0, len(prompt) :].tolist()
        assert request.ids == expected
        assert complete(model, tokenizer, prompt, max_new_tokens=length, temperature=0).ids == expected


def without_end(tokenizer):
    import copy

    found = copy.deepcopy(tokenizer)
    found.eos_token = None
    return found


def test_a_failing_answer_leaves_the_others(llama, tokenizer):
    """A failing request reports its error; the other answers are the same as alone."""

    class Broken:
        def start(self):
            return self

        def apply(self, logits):
            return logits * float("nan")

    greedy = Sampling(max_new_tokens=8, temperature=0)
    samplings = [greedy, Sampling(max_new_tokens=8, temperature=0, form=Broken()), greedy]
    requests, events = together(llama, tokenizer, PROMPTS[:3], samplings)
    assert [type(heard[-1]) for heard in events] == [End, Failed, End]
    assert "not finite" in str(events[1][-1].error)
    for i in (0, 2):
        assert requests[i].ids == complete(llama, tokenizer, PROMPTS[i], max_new_tokens=8, temperature=0).ids


def test_cancelled_answers_keep_their_text(llama, tokenizer):
    """A running request ends at its last token, a waiting one before its first; each emits one End."""
    llama.generation_config.eos_token_id = None
    samplings = [Sampling(max_new_tokens=50, temperature=0, logit_bias={2: -100.0}) for _ in PROMPTS[:2]]
    events = [[], []]
    requests = [
        make_request(llama, prompt, sampling, heard.append)
        for prompt, sampling, heard in zip(PROMPTS, samplings, events, strict=False)
    ]
    engine = Engine(llama, tokenizer, max_running=1)
    waiting = iter(requests)
    with torch.no_grad():
        for _ in range(4):
            engine.step(lambda: next(waiting, None))
        for request in requests:
            request.cancelled = True
        while engine.step(lambda: next(waiting, None)):
            pass
    assert [heard[-1].finish for heard in events] == ["cancelled", "cancelled"]
    assert [heard[-1].num_tokens for heard in events] == [4, 0]
    assert [sum(isinstance(e, End) for e in heard) for heard in events] == [1, 1]
    assert "".join(e.text for e in events[0] if isinstance(e, Piece)) == tokenizer.decode(requests[0].ids)


def test_a_row_that_was_read_together_is_kept(llama, tokenizer):
    """The next turn of one of many dialogues reads only its new tokens, and gets the same answer as alone."""
    cache = KeptCache(2)
    samplings = [Sampling(max_new_tokens=6, temperature=0)] * 2
    requests, _ = together(llama, tokenizer, PROMPTS[:2], samplings, cache=cache)
    assert len(cache) == 2
    prompt = [*requests[1].row, 5, 6]
    found = complete(llama, tokenizer, prompt, max_new_tokens=6, temperature=0, cache=cache)
    assert found.reused == len(requests[1].row) - 1
    assert found.ids == complete(llama, tokenizer, prompt, max_new_tokens=6, temperature=0).ids
