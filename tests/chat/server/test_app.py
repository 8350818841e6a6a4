"""Answers of the server to valid and invalid requests, in one process."""

import json

import pytest
import torch
from fastapi.testclient import TestClient

from xtuner.chat.server.app import make_app
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.server.scheduler import Scheduler
from xtuner.chat.server.service import Served, Service
from xtuner.generation.limits import context_length
from xtuner.utils import PROMPT_TEMPLATE

HELLO = [{"role": "user", "content": "hello"}]
GREEDY = {"messages": HELLO, "max_tokens": 8, "temperature": 0}


@pytest.fixture
def service(llama, tokenizer):
    scheduler = Scheduler(llama, tokenizer, max_waiting=8).start()
    models = [Served("tiny", "path/to/tiny", None, PROMPT_TEMPLATE.internlm2_chat)]
    yield Service(
        scheduler, models, PromptWriter(tokenizer, context_length(llama)), num_tokens=len(tokenizer)
    )
    if scheduler.is_alive:
        scheduler.close()


@pytest.fixture
def client(service):
    return TestClient(make_app(service))


def stream(client, path="/v1/chat/completions", **body):
    """The objects of a streamed answer."""
    reply = client.post(path, json={**body, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_stream_joins_to_the_whole_answer(client):
    """Streamed or not, text, finish reason and usage are the same."""
    whole = client.post("/v1/chat/completions", json=GREEDY).json()
    chunks = stream(client, **GREEDY, stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == whole["choices"][0]["message"]["content"] != ""
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"].items() >= {"completion_tokens": 8}.items()
    assert (whole["object"], chunks[0]["object"]) == ("chat.completion", "chat.completion.chunk")
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8


def test_several_choices_and_prompts(client, tokenizer):
    """Each prompt gets n answers with different seeds; a prompt counts once."""
    body = {"prompt": ["hello", "Who are you?"], "n": 2, "seed": 1, "temperature": 3.0, "max_tokens": 6}
    reply = client.post("/v1/completions", json=body).json()
    texts = [choice["text"] for choice in reply["choices"]]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert texts[0] != texts[1]
    lengths = [len(tokenizer.encode(text)) for text in body["prompt"]]
    assert reply["usage"]["prompt_tokens"] == sum(lengths)
    alone = client.post("/v1/completions", json={**body, "prompt": "hello", "n": 1}).json()
    assert alone["choices"][0]["text"] == texts[0]
    ids = client.post("/v1/completions", json={**body, "prompt": tokenizer.encode("hello"), "n": 1}).json()
    assert ids["choices"] == alone["choices"]
    chunks = stream(client, "/v1/completions", **body)
    for i, text in enumerate(texts):
        parts = [c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == i]
        assert "".join(parts) == text


def test_logprobs(client):
    """Each token is returned with its log-probability and the likeliest ones."""
    body = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 8
    assert content[0]["token"] == content[0]["top_logprobs"][0]["token"]
    streamed = [
        info
        for chunk in stream(client, **body)
        for c in chunk["choices"]
        if c["logprobs"]
        for info in c["logprobs"]["content"]
    ]
    assert [info["token"] for info in streamed] == [info["token"] for info in content]
    plain = client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3, "logprobs": 1}).json()
    assert len(plain["choices"][0]["logprobs"]["top_logprobs"]) == 3


def test_a_call_of_a_tool(client, service, monkeypatch):
    """A call in the text of the model is returned as a call, streamed or not."""
    said = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    ids = [*service.prompts.tokenizer.encode(said), 2]
    from xtuner.generation import request

    monkeypatch.setattr(request.Chooser, "__call__", lambda self, logits: ids[self.length_of_answer()])
    count = iter(range(1000))
    monkeypatch.setattr(
        request.Chooser, "length_of_answer", lambda self: next(count) % len(ids), raising=False
    )
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    body = {"messages": HELLO, "tools": [tool]}
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(client, **body)]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call["function"]["name"] for call in calls] == ["add"]
    text = client.post("/v1/chat/completions", json={**body, "tool_choice": "none"}).json()
    assert text["choices"][0]["message"]["content"].startswith("<tool_call>")


def test_old_turns_are_left_out_with_a_notice(client):
    """A dialogue longer than the context loses its oldest turns, with a notice."""
    turns = [*HELLO, {"role": "assistant", "content": "Hi"}] * 60
    reply = client.post("/v1/chat/completions", json={"messages": [*turns, *HELLO], "max_tokens": 4}).json()
    assert "oldest turns were left out: they exceed the context of 512 tokens" in reply["notices"][0]
    assert "oldest turns" in stream(client, messages=[*turns, *HELLO], max_tokens=4)[-1]["notices"][0]


def test_control_characters_and_odd_text_are_text(client):
    """No text of a message breaks the answer."""
    for text in ("\x00\x1b[2J\x07", "\u202e\ufeff", "{system} {{input}}", "🦜" * 20, ""):
        body = {**GREEDY, "messages": [{"role": "user", "content": text}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"model": "tinny"}, 404, "there is no model 'tinny'. Did you mean 'tiny'? Known: tiny"),
        ({"temprature": 1}, 400, "there is no field 'temprature' here. Did you mean 'temperature'?"),
        ({"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": "hot"}, 400, "temperature: Input should be a valid number"),
        ({"max_tokens": 0}, 400, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role: Input should be"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages: there is no message of a user"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, 400, "the last one must be a user's"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "messages.0.content.0.image_url: the model 'tiny' reads text only",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "text": "x"}]}]},
            400,
            "messages.0.content: 'input_audio' is not taken here",
        ),
        (
            {"messages": [{"role": "user", "content": "x" * 2**20}]},
            400,
            "the context of 512 leaves room for 504",
        ),
        ({"prompt_template": "qwen_chatt"}, 400, "Did you mean 'qwen_chat'?"),
        ({"tool_choice": "required"}, 400, "tool_choice: there are no tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            400,
            "tool_choice: there is no tool 'f'; known: none",
        ),
        ({"response_format": {"type": "json"}}, 400, "response_format.type: Input should be 'text'"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format: json_schema.schema is missing"),
        ({"logit_bias": {"9999999": 1}}, 400, "logit_bias: '9999999' is no token"),
        ({"n": 17}, 400, "n: Input should be less than or equal to 16"),
        ({"top_logprobs": 2}, 400, "top_logprobs needs logprobs = true"),
    ],
)
def test_a_wrong_request_gets_one_reason(client, change, status, reason):
    """The error names the field, the value or the known ones, in OpenAI's format."""
    reply = client.post("/v1/chat/completions", json={**GREEDY, **change})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert reason in error["message"]
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


def test_half_a_character_is_refused(client):
    """JSON can contain surrogates, which no tokenizer accepts."""
    json_type = {"content-type": "application/json"}
    body = b'{"messages": [{"role": "user", "content": "a\\ud83e"}]}'
    for path, content in (("chat/completions", body), ("completions", b'{"prompt": "a\\ud83e"}')):
        reply = client.post(f"/v1/{path}", content=content, headers=json_type)
        assert reply.status_code == 400
        assert "'\\ud83e', which is half a character" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [[]]}, "the prompt is empty"),
        ({"prompt": [99999]}, "prompt: 99999 is no token; there are"),
        ({"prompt": [5] * 600}, "the prompt has 600 tokens; the model's context holds 512"),
        ({"prompt": ["a"] * 17}, "17 answers in one request: ask for 16 at most"),
        ({"prompt": "a", "suffix": "b"}, "suffix: this model has no tokens for filling in"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_prompt_gets_one_reason(client, change, reason):
    """A prompt that cannot be continued is refused."""
    reply = client.post("/v1/completions", json=change)
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]


def test_other_paths_methods_and_bodies(client):
    """Every error has OpenAI's format."""
    replies = [
        (client.get("/v1/nothing"), 404, "GET /v1/nothing: Not Found"),
        (client.get("/v1/completions"), 405, "Method Not Allowed"),
        (
            client.post("/v1/completions", content=b"{", headers={"content-type": "application/json"}),
            400,
            "the request cannot be read as JSON",
        ),
        (client.post("/v1/completions", content=b"{}"), 415, "send application/json"),
        (client.get("/v1/models/other"), 404, "there is no model 'other'"),
    ]
    for reply, status, reason in replies:
        assert reply.status_code == status
        assert reason in reply.json()["error"]["message"]
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"


def test_the_key_is_required(service):
    """Without the key only /health is answered."""
    service.api_key = "s3cret"
    client = TestClient(make_app(service))
    assert client.get("/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
        reply = client.get("/v1/models", headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert client.get("/v1/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_a_request_that_is_too_large(service):
    """A size in the header is refused before the body is read, an unknown size while it is read."""
    service.max_request_bytes = 1000
    client = TestClient(make_app(service))
    for body in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
        reply = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 413
        assert "larger than 1000 bytes" in reply.json()["error"]["message"]


def test_a_full_queue_is_429(client, service):
    """The error of a full queue has a Retry-After header."""
    service.scheduler.max_waiting = 0
    reply = client.post("/v1/chat/completions", json=GREEDY)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    assert "0 requests wait already, 0 may" in reply.json()["error"]["message"]


def test_nothing_is_answered_after_the_shutdown(client, service):
    """The error names the shutdown."""
    service.scheduler.close()
    assert client.get("/health").status_code == 503
    assert client.post("/v1/chat/completions", json=GREEDY).status_code == 503


def test_time_is_limited(client, service):
    """A request that waits too long fails with a reason."""
    service.timeout_s = -1
    reply = client.post("/v1/chat/completions", json=GREEDY)
    assert reply.status_code == 503
    assert "the time allowed for it was over" in reply.json()["error"]["message"]


def test_metrics_count(client):
    """Requests, tokens and times are in /metrics."""
    client.post("/v1/chat/completions", json=GREEDY)
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'xtuner_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert 'xtuner_requests_total{path="other",status="404"} 1.0' in text
    assert "xtuner_generated_tokens_total 8.0" in text
    assert "xtuner_first_token_seconds_count 1.0" in text


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ('"a": ' + "[" * 100_000, "nested more than 100 deep"),
        ('"tools": ' + '{"a": ' * 150 + "1" + "}" * 151, "nested more than 100 deep"),
        ('"seed": ' + "1" * 5000 + "}", "a number has too many digits"),
        ('"temperature": ' + "1" * 4000 + "}", "temperature: Input should be"),
        ('"seed": ' + "1" * 4000 + "}", "seed: "),
        ('"messages": [' + "[]," * 200_000 + "[]]}", "messages.0: "),
        ('"messages": [' + '{"role": "user", "content": "a"},' * 10_000 + "1]}", "messages: "),
        ('"a": ' + "[]," * 600_000, "it has 600,003 lists and objects, 500,000 are allowed"),
        ('"stop_token_ids": [' + "1," * 200_000 + "1]}", "stop_token_ids: "),
        ('"logit_bias": {"0": 1' + "".join(f',"{i}": 1' for i in range(30_000)) + "}}", "logit_bias: "),
        ('"temperature": NaN}', "NaN is not a number of JSON"),
        ('"logit_bias": {"' + "1" * 5000 + '": 1}}', "is no token of this model"),
        ('"model": "' + "m" * 10**6 + '"}', "at most 200 characters"),
        ('"' + "m" * 10**6 + '": 1, "temperature": -1}', "m"),
        ('"user": "\xff"}', "cannot be read as JSON"),
    ],
)
def test_json_beyond_the_limits(client, rest, reason):
    """Thousands of digits, deep nesting and long names are an error of one short line."""
    body = f'{{"messages": [{{"role": "user", "content": "a"}}], {rest}'.encode("latin-1")
    kind = {"content-type": "application/json"}
    reply = client.post("/v1/chat/completions", content=body, headers=kind)
    assert reply.status_code in (400, 404)
    assert reason in reply.json()["error"]["message"]
    assert len(reply.json()["error"]["message"]) < 600


def test_arguments_of_calls_are_read_within_bounds(client):
    """Calls nested too deep, from a client or a model, do not fail the server."""
    deep = '{"a": ' * 5000 + "1" + "}" * 5000
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": deep}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    reply = client.post("/v1/chat/completions", json={"messages": [*HELLO, said, *HELLO]})
    assert reply.status_code == 400
    assert "arguments must be the text of a JSON object" in reply.json()["error"]["message"]
    from xtuner.chat.server.tool_calls import CallFinder

    finder = CallFinder()
    assert "".join([*finder.push(deep), *finder.finish()]) == deep


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("chat.localhost", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("pages.example:3000", 200),
    ],
)
def test_another_name_for_this_machine_is_refused(service, host, status):
    """A page cannot use a local server by DNS rebinding."""
    service.host, service.allowed_origins = "127.0.0.1", ["http://pages.example:3000"]
    reply = TestClient(make_app(service)).get("/v1/models", headers={"host": host})
    assert reply.status_code == status
    if status == 403:
        assert f"not to '{host}': to allow the name start it with" in reply.json()["error"]["message"]
        service.api_key = "s3cret"
        keyed = TestClient(make_app(service)).get("/health", headers={"host": host})
        assert keyed.status_code == 200


def test_pages_that_may_use_the_server(service):
    """Only the allowed origins get CORS headers, also in the preflight request without a key."""
    service.api_key, service.allowed_origins = "s3cret", ["https://pages.example"]
    client = TestClient(make_app(service))
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for origin, status, told in (
        ("https://pages.example", 200, "https://pages.example"),
        ("https://a.b", 400, None),
    ):
        reply = client.options("/v1/chat/completions", headers={"origin": origin, **ask})
        assert reply.status_code == status
        assert reply.headers.get("access-control-allow-origin") == told
        reply = client.get("/v1/models", headers={"origin": origin})
        assert (reply.status_code, reply.headers.get("access-control-allow-origin")) == (401, told)
    service.allowed_origins = ()
    reply = TestClient(make_app(service)).get("/health", headers={"origin": "https://pages.example"})
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "more",
    [
        dict.fromkeys(["stream", "stream_options", "n", "top_p", "top_k", "seed", "stop", "user", "tools"]),
        dict.fromkeys(["tool_choice", "logprobs", "response_format", "prediction", "something_new"]),
        {"functions": None, "logit_bias": {}, "tools": [], "stop": "", "ignore_eos": False},
        {"modalities": ["text"], "tool_choice": "auto"},
        {"user": "u", "metadata": {"a": 1}, "store": True, "service_tier": "auto", "safety_identifier": "x"},
        {"prompt_cache_key": "k", "prediction": {"type": "content", "content": "x"}, "verbosity": "low"},
        {"top_k": -1, "min_p": 0, "n": 1, "parallel_tool_calls": True, "stop": ["", "Qz"]},
        {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
        {"stream_options": {"include_usage": True}, "response_format": {"type": "text"}},
        {"top_logprobs": 0, "skip_special_tokens": True, "stop_token_ids": [], "top_p": 1},
    ],
)
def test_fields_without_effect_are_accepted(client, more):
    """Null, explicit defaults and fields of other servers do not change the answer."""
    plain = client.post("/v1/chat/completions", json=GREEDY).json()
    reply = client.post("/v1/chat/completions", json={**GREEDY, **more})
    assert reply.status_code == 200, reply.text
    assert (reply.json()["choices"], reply.json()["notices"]) == (plain["choices"], [])


def test_unknown_fields_are_listed(client):
    """Unknown fields are ignored, with a notice in the answer or in the last chunk of a stream."""
    notice = ["fields that are not known here were not looked at: brand_new, other"]
    body = {**GREEDY, "brand_new": 1, "other": {"a": 2}}
    assert client.post("/v1/chat/completions", json=body).json()["notices"] == notice
    last = stream(client, **body)[-1]
    assert (last["choices"][0]["finish_reason"], last["notices"]) == ("length", notice)
    told = stream(client, **body, stream_options={"include_usage": True})
    assert [chunk.get("notices") for chunk in told[-2:]] == [None, notice]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"functions": [{"name": "f"}]}, "functions is not available here: it is the older form of tools"),
        ({"web_search_options": {"a": 1}}, "web_search_options is not available here: nothing is searched"),
        ({"guided_json": {"type": "object"}}, "guided_json is not available here: write response_format"),
        ({"ignore_eos": True}, "ignore_eos is not available here"),
        ({"modalities": ["text", "audio"]}, "modalities.1: Input should be 'text'"),
        ({f"f{i}": 1 for i in range(51)}, "51 fields are not known here"),
        ({"messages": [{"role": "user", "contents": "x"}]}, "messages.0: content is missing"),
    ],
)
def test_unsupported_fields_are_refused(client, more, reason):
    """An unsupported field that would change the answer is an error with a cure."""
    reply = client.post("/v1/chat/completions", json={**GREEDY, **more})
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]


def test_answers_can_be_sent_back_unchanged(client):
    """A history of the client's objects, with empty fields, is the same as one of plain messages."""
    from openai.types.chat import ChatCompletionMessage

    message = ChatCompletionMessage(
        role="assistant", content="Hi", reasoning_content="Hm.", annotations=[], tool_calls=None
    )
    call = {"id": "1", "type": "function", "index": 0, "function": {"name": "now", "arguments": ""}}
    calls = {"role": "assistant", "content": None, "tool_calls": [call], "audio": None}
    part = {"type": "text", "text": "12", "cache_control": {}}
    results = [
        {"role": "tool", "tool_call_id": "1", "content": [part]},
        {"role": "function", "name": "now", "content": None},
    ]
    older = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}}
    found = {}
    for name, said in (("dumped", message.model_dump()), ("plain", {"role": "assistant", "content": "Hi"})):
        for kind, called in (("calls", calls), ("older", older)):
            body = {**GREEDY, "messages": [*HELLO, said, *HELLO, called, *results]}
            reply = client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            found[name, kind] = reply.json()["usage"]["prompt_tokens"]
    assert found["dumped", "calls"] == found["dumped", "older"] > found["plain", "calls"]


def test_min_p_stop_tokens_and_lengths(client, llama, tokenizer):
    """With min_p 1 sampling is greedy; a stop token ends the answer; max_tokens -1 is no limit."""
    greedy = client.post("/v1/chat/completions", json=GREEDY).json()["choices"][0]["message"]["content"]
    for more in ({"min_p": 1.0}, {"top_p": 0}):
        body = {**GREEDY, "temperature": 3.0, "seed": 1, **more}
        reply = client.post("/v1/chat/completions", json=body).json()
        assert reply["choices"][0]["message"]["content"] == greedy
    body = {"prompt": "hello", "temperature": 0, "max_tokens": 8}
    first = int(llama(torch.tensor([tokenizer.encode("hello")])).logits[0, -1].argmax())
    reply = client.post("/v1/completions", json={**body, "stop_token_ids": [first]}).json()
    assert (reply["choices"][0]["finish_reason"], reply["choices"][0]["text"]) == ("stop", "")
    reply = client.post("/v1/completions", json={**body, "max_tokens": -1, "logit_bias": {"2": -100}}).json()
    assert reply["usage"]["total_tokens"] == 512


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 2])
def test_echo_returns_the_logprobs_of_the_prompt(client, llama, tokenizer, as_ids, max_tokens):
    """As multiple-choice evaluations need it: the log-probability of each token of the prompt."""
    ids = tokenizer.encode("Who are you? I am")
    logprobs = llama(torch.tensor([ids])).logits[0].detach().double().log_softmax(-1)
    body = {"prompt": ids if as_ids else "Who are you? I am", "max_tokens": max_tokens, "temperature": 0}
    for _ in range(2):  # what is kept of the first would leave no logits
        reply = client.post("/v1/completions", json={**body, "echo": True, "logprobs": 1})
        choice = reply.json()["choices"][0]
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(ids) + max_tokens
        assert "".join(told["tokens"]) == choice["text"]
        assert told["token_logprobs"][0] is None
        expected = [float(logprobs[i, token]) for i, token in enumerate(ids[1:])]
        assert told["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=1e-4)
        best = [float(row.max()) for row in logprobs[:-1]]
        found = [max(top.values()) for top in told["top_logprobs"][1 : len(ids)]]
        assert found == pytest.approx(best, abs=1e-4)
        assert [choice["text"][at:][:1] for at in told["text_offset"]] == [t[:1] for t in told["tokens"]]
    chunks = [c["choices"][0] for c in stream(client, "/v1/completions", **body, echo=True, logprobs=1)]
    assert "".join(c["text"] for c in chunks) == choice["text"]
    assert [t for c in chunks if c["logprobs"] for t in c["logprobs"]["text_offset"]] == told["text_offset"]
    plain = client.post("/v1/completions", json={**body, "echo": True}).json()["choices"][0]
    assert (plain["text"], plain["logprobs"]) == (choice["text"], None)
