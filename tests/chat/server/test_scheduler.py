"""Many answers at a time equal those that each request gets alone."""

import queue
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, OpenAIGPTConfig, OPTConfig

from xtuner.chat.server import scheduler as module
from xtuner.chat.server.scheduler import QueueFullError, Scheduler, StoppedError
from xtuner.generation import engine
from xtuner.generation.generate import complete
from xtuner.generation.request import End, Failed, LateError, Request, Sampling
from xtuner.model.lora import attach_adapter

TEXTS = [
    "hello",
    "Who are you? I am a small model.",
    "def add(a, b):",
    "你是谁？",
    "Hi! How can I help you today?",
]
GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture
def prompts(tokenizer):
    return [tokenizer.encode(text) for text in TEXTS]


@pytest.fixture
def start():
    """Start a scheduler that is closed at the end."""
    started = []

    def make(model, tokenizer, **more):
        started.append(Scheduler(model, tokenizer, **more))
        return started[-1].start()

    yield make
    for each in started:
        each.close()


def ask(prompt, sampling=GREEDY, **more):
    events = queue.Queue()
    return Request(prompt, sampling, events.put, **more), events


def read(events):
    """The text of an answer and its last event."""
    text = ""
    while True:
        event = events.get(timeout=30)
        if isinstance(event, End | Failed):
            return text, event
        text += event.text


def families(tokenizer):
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 3, "max_position_embeddings": 256}
    small = {**size, **ends, "intermediate_size": 64}
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    return {
        "llama": LlamaConfig(**small),
        "sliding": MistralConfig(**small, sliding_window=8, num_key_value_heads=2),
        "dynamic": LlamaConfig(**{**small, "max_position_embeddings": 24}, rope_parameters=dynamic),
        "opt": OPTConfig(**{**size, **ends, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    }


@pytest.mark.parametrize("family", ["llama", "sliding", "dynamic", "opt"])
def test_answers_together_are_the_answers_alone(family, tokenizer, prompts, start, monkeypatch):
    """Answers of different lengths that join and leave equal those of `complete`, for every kind of cache."""
    monkeypatch.setattr(module, "CHUNK", 5)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families(tokenizer)[family]).eval()
    prompts = [prompt[:10] for prompt in prompts]
    lengths = [3, 12, 7, 1, 9]
    expected = [
        complete(model, tokenizer, p, max_new_tokens=n, temperature=0)
        for p, n in zip(prompts, lengths, strict=True)
    ]
    pairs = [ask(p, Sampling(max_new_tokens=n, temperature=0)) for p, n in zip(prompts, lengths, strict=True)]
    start(model, tokenizer).submit([answer for answer, _ in pairs])
    found = [read(events) for _, events in pairs]
    assert [text for text, _ in found] == [e.text for e in expected]
    assert [answer.ids for answer, _ in pairs] == [e.ids for e in expected]
    ends = [(end.num_prompt_tokens, end.num_tokens) for _, end in found]
    assert ends == [(len(p), len(e.ids)) for p, e in zip(prompts, expected, strict=True)]


def test_base_and_adapters_answer_at_the_same_time(llama, tokenizer, prompts, start, adapter_dir):
    """Each request uses the adapter that it names, or none."""
    expected = {None: complete(llama, tokenizer, prompts[0], max_new_tokens=12, temperature=0).text}
    model = attach_adapter(llama, adapter_dir, name="poet").eval()
    expected["poet"] = complete(model, tokenizer, prompts[0], max_new_tokens=12, temperature=0).text
    assert expected["poet"] != expected[None]
    names = ["poet", None, "poet", None]
    pairs = [ask(prompts[0], adapter=name) for name in names]
    start(model, tokenizer).submit([answer for answer, _ in pairs])
    assert [read(events)[0] for _, events in pairs] == [expected[name] for name in names]


def test_a_seed_gives_the_same_answer_beside_any_others(llama, tokenizer, prompts, start):
    """Sampling with a seed does not depend on other requests."""
    wild = Sampling(max_new_tokens=12, temperature=2.0, seed=7)
    server = start(llama, tokenizer)
    alone, events = ask(prompts[0], wild)
    server.submit([alone])
    text, _ = read(events)
    again, events = ask(prompts[0], wild)
    server.submit([again, *(ask(p, wild)[0] for p in prompts[1:])])
    assert read(events)[0] == text
    same = complete(
        llama, tokenizer, prompts[0], max_new_tokens=12, temperature=2.0, top_k=0, top_p=1.0, seed=7
    )
    assert same.ids == alone.ids


def test_stop_words_bias_and_penalties(llama, tokenizer, prompts, start):
    """A stop word ends the text before it; a bias forbids a token; a penalty prevents repetition."""
    server = start(llama, tokenizer)

    def say(**more):
        answer, events = ask(prompts[1], Sampling(max_new_tokens=20, temperature=0, **more))
        server.submit([answer])
        return read(events), answer.ids

    (text, end), ids = say()
    assert end.finish == "length"
    (cut, end), _ = say(stop_words=[text[4:6]])
    assert (cut, end.finish) == (text[: text.index(text[4:6])], "stop")
    assert ids[0] not in say(logit_bias={ids[0]: -100.0})[1]
    assert len(set(say(presence_penalty=50.0)[1])) == 20
    assert len(set(say(frequency_penalty=50.0)[1])) == 20


def test_logprobs_are_those_of_the_model(llama, tokenizer, prompts, start):
    """Log-probabilities equal those of a plain forward."""
    answer, events = ask(prompts[1], Sampling(max_new_tokens=4, temperature=0, logprobs=3))
    start(llama, tokenizer).submit([answer])
    infos = []
    while not isinstance(event := events.get(timeout=30), End):
        infos += event.tokens
    row = torch.tensor([prompts[1] + answer.ids])
    logprobs = llama(row).logits[0, len(prompts[1]) - 1 : -1].log_softmax(-1)
    assert [info.token for info in infos] == answer.ids
    for info, expected in zip(infos, logprobs, strict=True):
        values, tokens = expected.topk(3)
        assert [token for token, _ in info.top] == tokens.tolist()
        torch.testing.assert_close(torch.tensor([v for _, v in info.top]), values, atol=1e-5, rtol=0)
        assert abs(info.logprob - expected[info.token].item()) < 1e-5


def test_a_continued_dialogue_is_not_read_again(llama, tokenizer, prompts, start):
    """The next turn reuses the keys of the earlier ones; a dialogue with the same start does not."""
    server = start(llama, tokenizer)
    first, events = ask(prompts[1])
    server.submit([first])
    read(events)
    other, events = ask(prompts[1][:2] + prompts[2])
    server.submit([other])
    assert read(events)[1].num_reused == 0
    prompt = prompts[1] + first.ids + prompts[0]
    second, events = ask(prompt)
    server.submit([second])
    text, end = read(events)
    assert end.num_reused == len(prompts[1]) + len(first.ids) - 1
    assert text == complete(llama, tokenizer, prompt, max_new_tokens=12, temperature=0).text


def test_clients_take_turns(llama, tokenizer, prompts, start):
    """Many requests of one client do not delay a single one of another."""
    server = Scheduler(llama, tokenizer, max_running=1)
    order = []

    def put(name):
        return Request(
            prompts[0], GREEDY, lambda e: order.append(name) if isinstance(e, End) else None, client=name
        )

    server.submit([put("many") for _ in range(4)])
    server.submit([put("one")])
    last, events = ask(prompts[0], client="many")
    server.submit([last])
    server.start()
    read(events)
    server.close()
    assert order[:2] == ["many", "one"]


def test_a_full_queue_refuses(llama, tokenizer, prompts):
    """All answers of a request are queued, or none."""
    server = Scheduler(llama, tokenizer, max_waiting=2)
    server.submit([ask(prompts[0])[0]])
    with pytest.raises(QueueFullError, match="1 request waits already, 2 may"):
        server.submit([ask(prompts[0])[0] for _ in range(2)])
    assert server.num_waiting == 1


def test_cancelled_and_late_answers_end(llama, tokenizer, prompts, start):
    """A cancelled answer stops; a late one ends with its text so far; one that never began fails."""
    long = Sampling(max_new_tokens=450, temperature=0, logit_bias={2: -100.0})
    server = start(llama, tokenizer)
    gone, gone_events = ask(prompts[0], long)
    late, late_events = ask(prompts[1], long)
    never, never_events = ask(prompts[2], deadline=0)
    server.submit([gone, late, never])
    assert isinstance(read(never_events)[1].error, LateError)
    gone_events.get(timeout=30)
    server.cancel([gone])
    late_events.get(timeout=30)
    late.deadline = 0
    assert read(late_events)[1].finish == "time"
    while server.num_running:
        time.sleep(0.01)
    assert len(gone.ids) < 450 > len(late.ids)


def test_a_model_that_fails_fails_its_requests_only(llama, tokenizer, prompts, start):
    """An error in a forward fails its requests, and the next request is answered."""
    server = start(llama, tokenizer)
    forward = llama.forward
    llama.forward = None
    broken, events = ask(prompts[0])
    server.submit([broken])
    assert isinstance(read(events)[1].error, TypeError)
    llama.forward = forward
    fine, events = ask(prompts[0])
    server.submit([fine])
    assert isinstance(read(events)[1], End)


def test_an_answer_that_cannot_begin_fails_alone(llama, tokenizer, prompts, start):
    """An error before the first forward fails its request, and the next one is answered."""
    server = start(llama, tokenizer)
    broken, events = ask(prompts[0], Sampling(max_new_tokens=4, temperature=0, seed=2**70))
    fine, fine_events = ask(prompts[0])
    server.submit([broken, fine])
    assert isinstance(read(events)[1].error, ValueError | RuntimeError)
    assert isinstance(read(fine_events)[1], End)


def test_a_thread_that_ends_fails_all_and_refuses_more(llama, tokenizer, prompts, start, caplog):
    """After the thread has ended all requests fail, later ones too, and /health reports it."""
    server = Scheduler(llama, tokenizer, max_running=1)
    pairs = [ask(prompt) for prompt in prompts[:3]]

    def break_listener(event):
        raise RuntimeError("nobody listens")

    server.submit([answer for answer, _ in pairs[:1]])
    broken = [Request(prompts[0], GREEDY, break_listener) for _ in range(2)]
    server.submit([*broken, *(answer for answer, _ in pairs[1:])])
    aside = server.aside(lambda: time.sleep(0.01), None)
    server.start()
    server._thread.join(30)
    assert not server.is_alive
    assert isinstance(read(pairs[0][1])[1], End)
    for _, events in pairs[1:]:
        error = read(events)[1].error
        assert str(error) == "the server has failed, start it again: RuntimeError: nobody listens"
    assert aside.done()
    with pytest.raises(StoppedError, match="the server has failed, start it again"):
        server.submit([pairs[0][0]])
    with pytest.raises(StoppedError, match="the server has failed, start it again"):
        server.aside(lambda: None, None)
    assert "nobody listens" in caplog.text


def test_closing_fails_waiting_requests(llama, tokenizer, prompts):
    """Every request gets an error."""
    server = Scheduler(llama, tokenizer)
    waiting, events = ask(prompts[0])
    server.submit([waiting])
    server._closed = "the server is shutting down"
    server.start()
    server.close()
    assert isinstance(read(events)[1].error, StoppedError)
    with pytest.raises(QueueFullError, match="shutting down"):
        server.submit([waiting])


@pytest.mark.parametrize("family", ["llama", "sliding", "opt", "gpt"])
def test_logprobs_of_a_prompt_in_chunks(family, tokenizer, prompts, start, monkeypatch):
    """In chunks of any size the log-probabilities of a prompt equal those of a plain forward."""
    monkeypatch.setattr(engine, "CHUNK_WITH_LOGITS", 4)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = families(tokenizer)[family] if family != "gpt" else OpenAIGPTConfig(**size)
    model = AutoModelForCausalLM.from_config(config).eval()
    sampling = Sampling(max_new_tokens=0, temperature=0, echo=True, logprobs=0)
    scheduler = start(model, tokenizer)
    for prompt in prompts[:3]:
        answer, events = ask(prompt, sampling)
        scheduler.submit([answer])
        told = events.get(timeout=30)
        assert events.get(timeout=30).num_tokens == 0
        expected = model(torch.tensor([prompt])).logits[0].detach().log_softmax(-1)
        found = [info.logprob for info in told.tokens]
        assert found[0] is None
        assert found[1:] == pytest.approx([float(expected[i, t]) for i, t in enumerate(prompt[1:])], abs=1e-4)
