"""Structured answers: the answer of any model is JSON of the schema, or a call."""

import builtins
import copy
import json

import pytest
import torch
from fastapi.testclient import TestClient

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
pytest.importorskip("llguidance", reason="xtuner[structured] is not installed")

from tests.conftest import DATA
from xtuner.chat.server.app import make_app
from xtuner.chat.server.forms import AnswerFormat, CallForm, Forms
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.server.scheduler import Scheduler
from xtuner.chat.server.service import Served, Service
from xtuner.errors import DataError
from xtuner.generation.limits import context_length
from xtuner.utils import PROMPT_TEMPLATE

HELLO = [{"role": "user", "content": "hello"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "b", "\u4f60"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}


def tool(name, schema, **more):
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


@pytest.fixture
def serve():
    """A function that serves a model with a template and returns a client."""
    started = []

    def make(model, tokenizer, template):
        scheduler = Scheduler(model, tokenizer).start()
        started.append(scheduler)
        models = [Served("tiny", "path/to/tiny", None, template)]
        prompts = PromptWriter(tokenizer, context_length(model))
        return TestClient(make_app(Service(scheduler, models, prompts, num_tokens=model.vocab_size)))

    yield make
    for each in started:
        each.close()


@pytest.fixture
def client(serve, llama, tokenizer):
    llama.config.max_position_embeddings = 4000
    return serve(llama, tokenizer, PROMPT_TEMPLATE.internlm2_chat)


def ask(client, **body):
    reply = client.post(
        "/v1/chat/completions", json={"messages": HELLO, "max_tokens": 200, "seed": 0, **body}
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def person(strict=True, **change):
    schema = {"name": "person", "strict": strict, "schema": {**PERSON, **change}}
    return {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize("temperature", [0, 1, 5])
def test_json_of_a_schema(client, temperature):
    """The answer of a model with random weights ends, and is valid under the schema by jsonschema."""
    for seed in range(3):
        body = {"response_format": person(), "temperature": temperature, "seed": seed}
        choice = ask(client, **body)["choices"][0]
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)
    text = ""
    with client.stream(
        "POST", "/v1/chat/completions", json={"messages": HELLO, **body, "stream": True}
    ) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    assert text == choice["message"]["content"]


def test_stop_words_do_not_complete_a_format(client):
    """A stop word that is a token of JSON cuts the answer at its first occurrence."""
    for stop in ("}", '"'):
        choice = ask(client, response_format=person(), stop=stop)["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"].startswith("{")
        assert stop not in choice["message"]["content"]


def test_any_object(client, tokenizer):
    """json_object is an object; one cut by the length has finish_reason length."""
    body = {"response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 2}
    closing = tokenizer.convert_tokens_to_ids("}")
    reply = ask(client, **body, logit_bias={str(closing): 100})
    assert isinstance(json.loads(reply["choices"][0]["message"]["content"]), dict)
    cut = ask(client, response_format=person(), max_tokens=3)["choices"][0]
    assert (cut["finish_reason"], cut["message"]["content"][0]) == ("length", "{")


@pytest.mark.parametrize("choice", ["required", "named"])
def test_required_calls(client, choice):
    """A tool, or the named tool, is called with arguments of its schema."""
    tools = [tool("add", ADD), tool("greet \u4f60", {**PERSON})]
    named = {"type": "function", "function": {"name": "add"}}
    for seed in range(3):
        body = {"tools": tools, "tool_choice": "required" if choice == "required" else named, "seed": seed}
        found = ask(client, **body, max_tokens=400, parallel_tool_calls=False)["choices"][0]
        assert (found["finish_reason"], found["message"]["content"]) == ("tool_calls", None)
        (call,) = found["message"]["tool_calls"]
        schema = {"add": ADD, "greet \u4f60": PERSON}[call["function"]["name"]]
        jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
        assert choice == "required" or call["function"]["name"] == "add"


def own_template(tokenizer, text=None, marks=()):
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = text or (DATA / "chat_templates" / "qwen3.jinja").read_text()
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    return tokenizer


@pytest.mark.parametrize("kind", ["marks as letters", "marks as tokens", "bare"])
def test_calls_of_each_family(kind, serve, llama, tokenizer):
    """A call between marks of text, between special tokens or as a bare object is found."""
    bare = "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}{# <|python_tag|> #}"
    marks = ["<tool_call>", "</tool_call>", "<think>"] if kind == "marks as tokens" else ()
    tokenizer = own_template(tokenizer, bare if kind == "bare" else None, marks)
    llama.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    client = serve(llama, tokenizer, PROMPT_TEMPLATE.auto)
    body = {"tools": [tool("add", ADD)], "tool_choice": "required", "parallel_tool_calls": False}
    found = ask(client, **body)["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    jsonschema.validate(json.loads(found["message"]["tool_calls"][0]["function"]["arguments"]), ADD)


@pytest.mark.parametrize("marks", [(), ("<tool_call>", "</tool_call>", "<think>", "</think>")])
def test_strict_tools_leave_the_text_free(tokenizer, marks):
    """Any text is allowed, thinking and control tokens too; a call in it has arguments of its schema."""
    tokenizer = own_template(tokenizer, marks=marks)
    forms = Forms(tokenizer, len(tokenizer))
    form = forms.make(AnswerFormat(calls=[CallForm("add", ADD, True)]), [2])
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 12}}\n</tool_call>'

    def allowed(text):
        mask, ids = form.start(), tokenizer.encode(text, add_special_tokens=False)
        for i, token in enumerate(ids):
            if mask.apply(torch.zeros(len(tokenizer)))[token] < 0:
                return tokenizer.decode(ids[:i]), False
            mask.push(token)
        return text, mask.apply(torch.zeros(len(tokenizer)))[2] == 0

    for text in (
        "hi there",
        call,
        f"so: {call}\n{call} done",
        f"<think>hm</think>x {call}",
        "a<|im_start|>b",
    ):
        assert allowed(text) == (text, True)
    for wrong in ('{"b": 1}', '{"a": 100}', '{"a": "1"}'):
        seen, _ = allowed(call.replace('{"a": 12}', wrong))
        assert seen.startswith('<tool_call>\n{"name": "add", "arguments": {"')


def test_answers_or_calls(client):
    """With a schema and tools, the answer is JSON of the schema or a call."""
    kinds = set()
    for seed in range(6):
        body = {"tools": [tool("add", ADD)], "response_format": person(), "seed": seed, "temperature": 3}
        message = ask(client, **body, max_tokens=400, parallel_tool_calls=False)["choices"][0]["message"]
        kinds.add("call" if message.get("tool_calls") else "answer")
        if message["content"]:
            jsonschema.validate(json.loads(message["content"]), PERSON)
    assert kinds == {"call", "answer"}


def test_unsupported_parts_of_a_schema(client):
    """A strict schema is refused with the reason; another one is applied without that part, with a notice."""
    change = {"not": {"type": "string"}}
    body = {"messages": HELLO, "response_format": person(**change)}
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == 'this schema cannot be kept: Unimplemented keys: ["not"]'
    told = ask(client, response_format=person(strict=False, **change))["notices"]
    assert told == ['not kept of a schema: Unimplemented keys: ["not"]']
    wrong = {**body, "response_format": person(type="foo")}
    assert "Invalid type: foo" in client.post("/v1/chat/completions", json=wrong).json()["error"]["message"]
    large = {**body, "response_format": person(enum=[f"{i:09}" for i in range(150_000)])}
    reply = client.post("/v1/chat/completions", json=large)
    assert reply.status_code == 400
    assert len(reply.json()["error"]["message"]) < 300


def test_without_the_package(client, monkeypatch):
    """The error names the package and how to install it."""
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.startswith("llguidance"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    reply = client.post("/v1/chat/completions", json={"messages": HELLO, "response_format": person()})
    assert reply.status_code == 501
    assert reply.json()["error"]["message"].endswith("on the server, the extra 'structured'")


def test_end_tokens_and_words(tokenizer):
    """A complete answer ends with any of the end tokens and cannot continue."""
    form = Forms(tokenizer, len(tokenizer) + 5).make(AnswerFormat({"enum": ["a"]}), [2, 5])
    mask = form.start()
    assert not mask.apply(torch.zeros(len(tokenizer)))[[2, 5]].isfinite().any()
    for token in tokenizer.encode('"a"', add_special_tokens=False):
        mask.push(token)
    allowed = mask.apply(torch.zeros(len(tokenizer) + 64)).isfinite().nonzero().flatten().tolist()
    assert allowed == [2, 5]
    with pytest.raises(DataError, match="this schema cannot be kept"):
        Forms(tokenizer, len(tokenizer)).make(AnswerFormat({"type": "foo"}), [2])
