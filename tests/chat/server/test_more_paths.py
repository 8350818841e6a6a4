"""/v1/responses, /v1/embeddings and /tokenize agree with the other paths and the model."""

import base64
import json
import struct

import pytest
import torch
from fastapi.testclient import TestClient

from xtuner.chat.server.app import make_app
from xtuner.chat.server.prompts import PromptWriter
from xtuner.chat.server.scheduler import Scheduler
from xtuner.chat.server.service import Served, Service
from xtuner.generation.limits import context_length
from xtuner.model.lora import attach_adapter
from xtuner.utils import PROMPT_TEMPLATE

HELLO = [{"role": "user", "content": "hello"}]
ADD = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
TOOL = {"type": "function", "name": "add", "parameters": {**ADD, "additionalProperties": False}}


@pytest.fixture
def service(llama, adapter_dir, tokenizer):
    llama.config.max_position_embeddings = 2000
    model = attach_adapter(llama, adapter_dir, name="adapter_0").eval()
    scheduler = Scheduler(model, tokenizer).start()
    template = PROMPT_TEMPLATE.internlm2_chat
    models = [Served("tiny", "tiny", None, template), Served("poet", "poet", "adapter_0", template)]
    yield Service(
        scheduler, models, PromptWriter(tokenizer, context_length(model)), num_tokens=len(tokenizer)
    )
    scheduler.close()


@pytest.fixture
def client(service):
    return TestClient(make_app(service))


def post(client, path, **body):
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events_of(client, **body):
    """The events of a streamed response."""
    reply = client.post("/v1/responses", json={**body, "stream": True})
    found = []
    for block in filter(None, reply.text.split("\n\n")):
        head, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert head == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def without_names(value):
    """`value` without ids and times."""
    if isinstance(value, list):
        return [without_names(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {k: without_names(v) for k, v in value.items() if k not in ("id", "call_id", "created_at")}


def test_a_response_equals_the_answer_of_a_chat(client):
    """The text equals that of a chat with the same messages; the pieces of a stream join to it."""
    chat = {"messages": [{"role": "system", "content": "Be kind."}, *HELLO], "max_tokens": 8}
    chat = post(client, "/v1/chat/completions", **chat, temperature=0)
    body = {"instructions": "Be kind.", "input": "hello", "max_output_tokens": 8, "temperature": 0}
    found = post(client, "/v1/responses", **body)
    (item,) = found["output"]
    assert item["content"][0]["text"] == chat["choices"][0]["message"]["content"] != ""
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert found["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    events = events_of(client, **body)
    assert [event["type"] for event in events if not event["type"].endswith("delta")] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == item["content"][0]["text"]
    last = without_names(events[-1]["response"])
    last["usage"]["input_tokens_details"] = found["usage"]["input_tokens_details"]
    assert last == without_names(found)


def test_items_are_messages(client, service):
    """Each kind of item equals a message of a chat."""
    call = {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'}
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        call,
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    function = {"name": "add", "arguments": '{"a": 1}'}
    messages = [
        {"role": "system", "content": "Be kind."},
        *HELLO,
        {
            "role": "assistant",
            "content": "Hi",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    asked = {"temperature": 0}
    chat = post(client, "/v1/chat/completions", messages=messages, max_tokens=4, **asked)
    found = post(client, "/v1/responses", input=items, max_output_tokens=4, **asked)
    assert found["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert found["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]


def test_calls_and_formats_of_responses(client):
    """A required call is a separate item, also in a stream; text has the requested format."""
    pytest.importorskip("llguidance", reason="xtuner[structured] is not installed")
    choice = {"type": "function", "name": "add"}
    body = {"input": "hello", "tools": [TOOL], "tool_choice": choice}
    found = post(client, "/v1/responses", **body)
    (item,) = found["output"]
    assert (item["type"], item["name"], found["status"]) == ("function_call", "add", "completed")
    assert json.loads(item["arguments"])["a"] in (1, 2)
    types = [event["type"] for event in events_of(client, **body)]
    assert types[2:-1] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": TOOL["parameters"]}
    found = post(client, "/v1/responses", input="hello", text={"format": form})
    assert json.loads(found["output"][0]["content"][0]["text"])["a"] in (1, 2)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"previous_response_id": "x"}, "previous_response_id is not available here: nothing is kept"),
        ({"background": True}, "background is not available here"),
        ({"tools": [{"type": "web_search"}]}, "tools.0: 'web_search' is not available here"),
        ({"input": [{"type": "image_generation_call"}]}, "input.0: 'image_generation_call' is not taken"),
        ({"input": [{"role": "king", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content: 'input_file'"),
        ({"instruction": "x"}, "there is no field 'instruction' here. Did you mean 'instructions'?"),
        ({"input": []}, "messages: List should have at least 1 item"),
    ],
)
def test_wrong_responses(client, more, reason):
    """Each error is one line."""
    reply = client.post("/v1/responses", json={"input": "hello", **more})
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]


@pytest.mark.parametrize("name", ["tiny", "poet"])
def test_a_vector_is_the_mean_of_the_last_states(client, service, tokenizer, name):
    """For the base and an adapter, for texts and ids, as numbers and as bytes."""
    texts = ["hello", "Who are you? I am a small model."]
    model = service.scheduler.model
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            if name == "poet":
                model.set_adapter("adapter_0")
                states = model(ids, output_hidden_states=True).hidden_states[-1]
            else:
                with model.disable_adapter():
                    states = model(ids, output_hidden_states=True).hidden_states[-1]
        mean = states[0].double().mean(0)
        expected.append((mean / mean.norm()).tolist())
    found = post(client, "/v1/embeddings", model=name, input=texts)
    assert [each["index"] for each in found["data"]] == [0, 1]
    for each, vector in zip(found["data"], expected, strict=True):
        assert each["embedding"] == pytest.approx(vector, abs=1e-5)
    count = sum(len(tokenizer.encode(text)) for text in texts)
    assert found["usage"] == {"prompt_tokens": count, "total_tokens": count}
    ids = [tokenizer.encode(text) for text in texts]
    as_bytes = post(client, "/v1/embeddings", model=name, input=ids, encoding_format="base64")
    for each, vector in zip(as_bytes["data"], expected, strict=True):
        data = base64.b64decode(each["embedding"])
        assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(vector, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"input": []}, "the input is empty"),
        ({"input": ["a"] * 2049}, "2049 answers in one request: ask for 2048 at most"),
        ({"input": [[]]}, "input.0 is empty"),
        ({"input": [[5] * 2001]}, "input.0 has 2001 tokens; the model's context holds 2000"),
        ({"input": "a", "dimensions": 3}, "dimensions: this model's vectors have 64"),
        ({"input": [99999]}, "99999 is no token"),
    ],
)
def test_inputs_without_an_embedding(client, body, reason):
    reply = client.post("/v1/embeddings", json=body)
    assert reply.status_code == 400
    assert reason in reply.json()["error"]["message"]


def test_embeddings_at_the_shutdown(client, service):
    """Waiting requests get an error at the shutdown."""
    service.scheduler.close()
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 503


def test_tokens_of_texts_and_messages(client, tokenizer):
    """The ids are those of the prompt for the same input; detokenized, they are the text."""
    found = post(client, "/tokenize", prompt="hello")
    ids = tokenizer.encode("hello")
    assert found == {"count": len(ids), "max_model_len": 2000, "tokens": ids}
    bare = post(client, "/tokenize", prompt="hello", add_special_tokens=False)
    assert bare["tokens"] == tokenizer.encode("hello", add_special_tokens=False)
    messages = post(client, "/tokenize", messages=HELLO)
    chat = post(client, "/v1/chat/completions", messages=HELLO, max_tokens=1)
    assert messages["count"] == chat["usage"]["prompt_tokens"]
    text = post(client, "/detokenize", tokens=messages["tokens"])["prompt"]
    assert text == "<s><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    for body in ({}, {"prompt": "a", "messages": HELLO}):
        reply = client.post("/tokenize", json=body)
        assert reply.json()["error"]["message"] == "give either prompt or messages"
    assert client.post("/detokenize", json={"tokens": [10**6]}).status_code == 400
