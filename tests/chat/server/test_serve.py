"""A real server process and the official client."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")

from xtuner import cli
from xtuner.chat.server.serve import ServeSettings, listen
from xtuner.errors import ConfigError

HELLO = [{"role": "user", "content": "hello"}]
LONG = {"max_tokens": 480, "logit_bias": {"2": -100, "5": -100}}


class Server:
    """`xtuner serve` in a separate process."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "xtuner", "serve", *map(str, arguments), "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if found := re.search(r"Serving .* at (http://\S+)/v1", line):
                self.url = found[1]
                break
        assert self.process.poll() is None, self.log

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return reply.read().decode()

    def stop(self, number=signal.SIGTERM):
        """The exit code and the last log lines."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=30)
        return self.process.returncode, rest


@pytest.fixture(scope="module")
def server(llama_dir, adapter_dir, tmp_path_factory):
    # Room for tools and their results.
    folder = shutil.copytree(llama_dir, tmp_path_factory.mktemp("served") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    started = Server(folder, "--adapter", f"poet={adapter_dir}", "--name", "tiny", "--torch-dtype", "fp32")
    yield started
    if started.process.poll() is None:
        started.stop(signal.SIGKILL)


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_models_and_answers(client):
    """The base and the adapter are found by name and answer differently, whole and streamed."""
    assert [model.id for model in client.models.list()] == ["tiny", "poet"]
    assert client.models.retrieve("poet").parent == "tiny"
    answers = {}
    for name in ("tiny", "poet"):
        ask = {"model": name, "messages": HELLO, "max_tokens": 8, "temperature": 0}
        reply = client.chat.completions.create(**ask)
        assert reply.usage.completion_tokens == 8
        answers[name] = reply.choices[0].message.content
        chunks = list(client.chat.completions.create(**ask, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == answers[name]
    assert answers["tiny"] != answers["poet"]
    text = client.completions.create(model="tiny", prompt="hello", max_tokens=3, seed=1)
    assert text.choices[0].finish_reason == "length"
    with pytest.raises(openai.NotFoundError, match="Did you mean 'poet'"):
        client.chat.completions.create(model="poets", messages=HELLO)


def test_formats_tools_and_responses_of_the_official_client(server):
    """Parsed classes, calls, streams and histories of the openai package work."""
    pytest.importorskip("llguidance", reason="xtuner[structured] is not installed")
    from pydantic import BaseModel

    class Person(BaseModel):
        kind: bool

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    tool = openai.pydantic_function_tool(Person)
    ask = {"model": "tiny", "messages": HELLO}
    one_call = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    parsed = client.chat.completions.parse(**ask, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    called = client.chat.completions.parse(**ask, **one_call).choices[0].message
    assert isinstance(called.tool_calls[0].function.parsed_arguments, Person)
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "ok"}
    for sent in (called, called.model_dump()):
        history = [*HELLO, sent, result]
        client.chat.completions.create(model="tiny", messages=history, max_tokens=2)
    with client.chat.completions.stream(**ask, response_format=Person) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)
    with client.responses.stream(model="tiny", input="hello", text_format=Person) as stream:
        assert [event.type for event in stream][-1] == "response.completed"
        assert isinstance(stream.get_final_response().output_parsed, Person)
    flat = {"type": "function", **tool["function"]}
    response = client.responses.create(model="tiny", input="hello", **{**one_call, "tools": [flat]})
    call = response.output[0]
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
    client.responses.create(model="tiny", input=[*HELLO, call, told], max_output_tokens=2)
    vectors = client.embeddings.create(model="poet", input=["hello", "you"]).data
    assert [len(each.embedding) for each in vectors] == [64, 64]


def test_sixty_four_streams_lose_nothing(server):
    """64 concurrent clients each get a whole answer; the same question gets the same answer."""

    async def one(client, i):
        text, finish = "", None
        question = [{"role": "user", "content": f"hello {i % 8}"}]
        more = {"max_tokens": 16 + i % 8, "stream": True, "temperature": 0}
        name = "poet" if i % 2 else "tiny"
        stream = await client.chat.completions.create(model=name, messages=question, **more)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        return text, finish

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(64)))

    answers = asyncio.run(all_of_them())
    assert len(answers) == 64
    assert all(text and finish in ("length", "stop") for text, finish in answers)
    for i, answer in enumerate(answers):
        assert answer == answers[i % 8]


def test_a_disconnect_stops_the_answer(server, client):
    """Generation stops when the client of a stream or of a whole answer disconnects."""
    stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True, extra_body=LONG)
    next(iter(stream))
    stream.close()
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"messages": HELLO, **LONG}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        time.sleep(0.1)
    deadline = time.monotonic() + 20
    while json.loads(server.get("/health"))["running"] and time.monotonic() < deadline:
        time.sleep(0.02)
    metrics = server.get("/metrics")
    assert "xtuner_hung_up_total 2.0" in metrics
    assert "xtuner_running 0.0" in metrics


def test_two_servers_on_one_port_are_one_line(server, llama_dir, capsys):
    """The second server fails before it loads anything."""
    port = server.url.rpartition(":")[2]
    assert cli.main(["serve", str(llama_dir), "--port", port]) == 1
    error = capsys.readouterr().err
    assert f"error: port {port} of 127.0.0.1 is in use by another program" in error
    assert error.count("\n") == 1


def test_sigterm_completes_running_answers(server, client):
    """After SIGTERM the running answer is completed; the exit code is 143."""
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, extra_body={**LONG, "max_tokens": 150}
    )
    chunks = iter(stream)
    next(chunks)
    server.process.send_signal(signal.SIGTERM)
    *_, last = chunks
    assert last.choices[0].finish_reason == "length"
    code, rest = server.stop()
    assert code == 143
    assert rest == "xtuner: stopped by SIGTERM\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "99999"], "--port is 99999: write 0"),
        (["--max-running", "0"], "--max-running is 0: write 1 or more"),
        (["--timeout", "0"], "--timeout is 0.0: write above 0"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: there is no such address"),
        (["--prompt-template", "qwen_chatt"], "Did you mean 'qwen_chat'"),
        (["--adapter", "a=./none"], "There is no adapter folder ./none"),
        (
            ["--allowed-origins", "pages.example"],
            "--allowed-origins 'pages.example': write pages as browsers",
        ),
        (["--allowed-origins", "http://a, http://b/c"], "--allowed-origins 'http://b/c': write pages"),
        (["--adapter", "=x"], "--adapter '=x': write NAME=FOLDER"),
        (["--adapter", "a=x", "--adapter", "a=y"], "the name 'a' is taken"),
    ],
)
def test_wrong_settings_are_one_line(llama_dir, argv, message, capsys):
    """Wrong settings are refused before the model is loaded."""
    assert cli.main(["serve", str(llama_dir), "--port", "0", *argv]) == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]


def test_a_model_without_tokenizer_and_an_adapter_of_another_base(llama_dir, adapter_dir, tmp_path, capsys):
    """The error names the folder."""
    from safetensors.torch import load_file, save_file

    bare = shutil.copytree(llama_dir, tmp_path / "bare")
    for file in bare.glob("token*"):
        file.unlink()
    (bare / "special_tokens_map.json").unlink(missing_ok=True)
    assert cli.main(["serve", str(bare), "--port", "0"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err
    other = shutil.copytree(adapter_dir, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    save_file({k: v[:, :3].contiguous() for k, v in weights.items()}, other / "adapter_model.safetensors")
    assert cli.main(["serve", str(llama_dir), "--port", "0", "--adapter", str(other)]) == 1
    assert "was made for another base model" in capsys.readouterr().err


def test_the_port_is_free_again():
    """A port can be used as soon as its server has closed it."""
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use"):
        listen("127.0.0.1", port)
    first.close()
    listen("127.0.0.1", port).close()


def test_names_of_adapters():
    """An adapter has the name given, or that of its folder."""
    settings = ServeSettings("models/base", adapters=["a=x/y", "lora/poet"])
    assert settings.base_name() == "base"
    assert settings.named_adapters() == {"a": "x/y", "poet": "lora/poet"}
