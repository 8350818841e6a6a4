"""Answers to one prompt are read once and are those that each would get by itself."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.families.configs import make_model
from tests.generation.test_engine import without_end
from xtuner.generation.engine import Engine
from xtuner.generation.generate import answer, complete_all, complete_several, make_request
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.request import Piece, Sampling
from xtuner.generation.shared_prompt import share_prompts
from xtuner.model.adapters import virtual_tokens

PROMPTS = [list(range(20, 33)), [*range(40, 49), 7, 6], [9, 11]]
COUNT, LENGTH = 4, 9
# Keys alone, one window, windows beside keys, keys of another layer, states, states beside keys, no cache.
FAMILIES = [
    "llama",
    "qwen3",
    "mistral",
    "gemma3_text",
    "gemma3n_text",
    "mamba",
    "qwen3_next",
    "jamba",
    "minimax",
    "openai-gpt",
]
pytestmark = pytest.mark.filterwarnings("ignore")


def model_of(family, tokenizer):
    torch.manual_seed(0)
    model = make_model(family, vocab_size=len(tokenizer)).eval()
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    return model


def sampled(model, tokenizer, shares, **more):
    """Ids and log-probabilities of the answers to PROMPTS, and the prompt tokens that the model read."""
    heard = [[] for _ in range(len(PROMPTS) * COUNT)]
    requests = [
        make_request(model, prompt, Sampling(LENGTH, seed=number, logprobs=0), heard[number].append)
        for number, prompt in enumerate(prompt for prompt in PROMPTS for _ in range(COUNT))
    ]
    if shares:
        share_prompts(requests)
    lengths = []

    def note(_module, _args, given):
        lengths.append(given["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    answer(model, without_end(tokenizer), requests, **more)
    handle.remove()
    infos = [
        [info.logprob for event in events if isinstance(event, Piece) for info in event.tokens]
        for events in heard
    ]
    return [request.ids for request in requests], infos, sum(n for n in lengths if n > 1), requests


@pytest.mark.parametrize("max_running", [5, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_same_as_without_sharing(family, max_running, tokenizer):
    """Also if fewer are generated at a time than a group has, so that a prompt waits for the last of it."""
    model = model_of(family, tokenizer)
    ids, logprobs, read, _ = sampled(model, tokenizer, shares=False, max_running=max_running)
    own_ids, own_logprobs, own_read, requests = sampled(
        model, tokenizer, shares=True, max_running=max_running
    )
    assert own_ids == ids
    assert len(set(map(tuple, ids))) > len(PROMPTS)
    torch.testing.assert_close(torch.tensor(own_logprobs), torch.tensor(logprobs), rtol=0, atol=1e-5)
    assert all(request.cache is None and request.shared is None for request in requests)
    if family != "openai-gpt":  # without a cache each token is read with the whole row
        once = sum(map(len, PROMPTS))
        assert (read, own_read) == (COUNT * once, once)


def test_answers_after_virtual_tokens_are_the_same(tokenizer):
    """Whether these are embeddings or keys and values of each layer."""
    for kind in ("PromptTuningConfig", "PrefixTuningConfig"):
        torch.manual_seed(1)
        cfg = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=5)
        model = peft.get_peft_model(model_of("gemma3_text", tokenizer), cfg).eval()
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.normal_(std=0.5)
        assert virtual_tokens(model) == 5
        ids, logprobs, _, _ = sampled(model, tokenizer, shares=False, max_running=5)
        own_ids, own_logprobs, _, _ = sampled(model, tokenizer, shares=True, max_running=5)
        assert own_ids == ids
        torch.testing.assert_close(torch.tensor(own_logprobs), torch.tensor(logprobs), rtol=0, atol=1e-5)


def test_the_tokens_that_were_not_read_are_counted(tokenizer):
    """By each completion, and by the engine those that were."""
    model = model_of("llama", tokenizer)
    asked = [(prompt, Sampling(2, seed=n)) for prompt in PROMPTS for n in range(COUNT)]
    found = complete_all(model, tokenizer, asked)
    assert [one.reused for one in found] == [n for p in PROMPTS for n in (0, *[len(p)] * (COUNT - 1))]
    found = complete_several(model, tokenizer, PROMPTS[0], 3, max_new_tokens=2)
    assert [one.reused for one in found] == [0, len(PROMPTS[0]), len(PROMPTS[0])]
    # Of a dialogue whose first turn is kept, all but its last token are not read.
    cache = KeptCache()
    complete_several(model, tokenizer, PROMPTS[0], 1, max_new_tokens=1, cache=cache)
    longer = [*PROMPTS[0], 5, 6, 7]
    found = complete_several(model, tokenizer, longer, 3, max_new_tokens=2, cache=cache)
    assert [one.reused for one in found] == [len(PROMPTS[0]), len(longer), len(longer)]
    engine = Engine(model, tokenizer)
    requests = [make_request(model, PROMPTS[0], Sampling(1), lambda _: None) for _ in range(3)]
    share_prompts(requests)
    waiting = iter(requests)
    with torch.no_grad():
        while engine.step(lambda: next(waiting, None)):
            pass
    assert engine.num_read == len(PROMPTS[0])


def test_other_prompts_adapters_and_wishes_are_read_again(tokenizer):
    """Only neighbours with the same tokens and adapter share, if they do not need the prompt's logits."""

    def request(prompt, adapter=None, **more):
        found = make_request(model, prompt, Sampling(2, **more), lambda _: None)
        found.adapter = adapter
        return found

    model = model_of("llama", tokenizer)
    a, b = PROMPTS[:2]
    requests = [request(a), request(list(a)), request(b), request(a), request(a, "other")]
    requests += [request(a, echo=True, logprobs=0) for _ in range(2)]
    share_prompts(requests)
    assert requests[0].shared is requests[1].shared is not None
    assert [one.shared for one in requests[2:]] == [None] * 5


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3_next"])
def test_one_answer_leaves_the_others_alone(family, tokenizer):
    """What is kept of an answer, cropped and read on does not change the cache of a neighbour that waits."""
    model = model_of(family, tokenizer)
    tokenizer = without_end(tokenizer)
    prompt, cache = PROMPTS[0], KeptCache(4)
    alone = [complete_several(model, tokenizer, prompt, 1, max_new_tokens=n, seed=3)[0] for n in (1, 6, 6)]

    def request(ids, count):
        sampling = Sampling(count, temperature=0.1, top_k=40, top_p=0.75, seed=3)
        return make_request(model, ids, sampling, lambda _: None)

    requests = [request(prompt, n) for n in (1, 6, 6)]
    share_prompts(requests)
    # They begin as the prompt does, so they take what is kept, crop it, and read where its last tokens were.
    others = [request([*prompt[:-2], *end], 1) for end in ([50, 51], [60, 61])]
    order = [requests[0], others[0], requests[1], others[1], requests[2]]
    answer(model, tokenizer, order, cache=cache, max_running=1)
    assert [one.ids for one in requests] == [one.ids for one in alone]
    if family == "llama":
        assert [one.num_reused for one in others] == [len(prompt) - 2] * 2


def test_a_neighbour_that_is_cancelled_reads_nothing(tokenizer):
    """The first to remain reads the prompt."""
    model = model_of("llama", tokenizer)
    requests = [make_request(model, PROMPTS[0], Sampling(3, seed=n), lambda _: None) for n in range(3)]
    share_prompts(requests)
    requests[0].cancelled = True
    answer(model, without_end(tokenizer), requests)
    alone = make_request(model, PROMPTS[0], Sampling(3, seed=2), lambda _: None)
    answer(model, without_end(tokenizer), [alone])
    assert [len(request.ids) for request in requests] == [0, 3, 3]
    assert requests[2].ids == alone.ids


def test_the_server_reads_a_prompt_once_for_all_its_choices(llama_dir, tokenizer):
    """Requests that are submitted together."""
    import queue

    from xtuner.chat.server.scheduler import Scheduler
    from xtuner.generation.request import End

    model, events = AutoModelForCausalLM.from_pretrained(llama_dir).eval(), queue.Queue()
    scheduler = Scheduler(model, tokenizer).start()
    scheduler.submit([make_request(model, PROMPTS[0], Sampling(4, seed=n), events.put) for n in range(3)])
    ends = []
    while len(ends) < 3:
        event = events.get(timeout=30)
        ends += [event] if isinstance(event, End) else []
    scheduler.close()
    assert scheduler.engine.num_read == len(PROMPTS[0])
    assert sorted(end.num_reused for end in ends) == [0, len(PROMPTS[0]), len(PROMPTS[0])]
