"""The agent's loop: a scripted model thinks, searches, calculates and answers."""

import io
import json
import sys
import textwrap

import pytest
from transformers import AutoModelForCausalLM

from tests.chat.plugins.test_plugins import web  # noqa: F401
from tests.chat.scripted import script
from xtuner.chat.answer import Answerer
from xtuner.chat.line_input import PROMPT
from xtuner.chat.plugins.mcp_servers import McpServers
from xtuner.chat.plugins.tool import Tool, ToolError, plugin, tool_from_function, tools_from_file
from xtuner.chat.react import MAX_STEPS, Agent, Step, read_arguments, read_step, rules
from xtuner.chat.session import make_session
from xtuner.chat.settings import Settings
from xtuner.dataset.encoding.conversations import encode_conversations
from xtuner.dataset.map_fns import msagent_react_map_fn, template_map_fn_factory
from xtuner.errors import ConfigError, NotFoundError
from xtuner.tools.chat import main
from xtuner.utils import PROMPT_TEMPLATE

SEARCH = 'Thought:I must look it up.\nAction:search\nAction Input:{"query": "height of Everest"}\n\n'
CALCULATE = "Thought:Feet are shorter.\nAction:calculate\nAction Input:{'expression': '8849 / 0.3048'}\n\n"
ANSWER = "Thought:Now I know.\nFinal Answer:29,032 feet\n"


@pytest.fixture
def agent(llama_dir, tokenizer):
    """An agent with the tools and a model that gives the answers; `agent.session` is its history."""

    def make(answers, tools=None, **settings):
        tools = [plugin("calculate")] if tools is None else tools
        model = script(AutoModelForCausalLM.from_pretrained(llama_dir), tokenizer, answers)
        session = make_session(tokenizer, PROMPT_TEMPLATE.internlm2_chat, rules(tools))
        answerer = Answerer(model, tokenizer, session, Settings("m", temperature=0, **settings))
        found = Agent(answerer, tools)
        found.session = session
        found.shown = []
        found.ask = lambda text: found(text, found.shown.append)
        return found

    return make


def test_search_and_calculation_end_to_end(llama_dir, tokenizer, monkeypatch, capsys, web):  # noqa: F811
    """`xtuner chat --lagent` searches a real server, calculates, and shows each step and the answer."""
    monkeypatch.setenv("SERPER_API_KEY", "k")
    monkeypatch.setattr("xtuner.tools.chat.start_console", lambda: None)  # a test leaves the logger as it is
    monkeypatch.setenv("SERPER_BASE_URL", web)
    model = script(AutoModelForCausalLM.from_pretrained(llama_dir), tokenizer, [SEARCH, CALCULATE, ANSWER])
    monkeypatch.setattr("xtuner.model.loading.load_for_chat", lambda *_, **__: (model, tokenizer))
    monkeypatch.setattr("sys.stdin", io.StringIO("How high is Everest in feet?\n\n"))
    flags = ["--lagent", "--prompt-template", "internlm2_chat", "--temperature", "0"]
    assert main([str(llama_dir), *flags]) == 0
    shown = capsys.readouterr().out.split(PROMPT)[1]
    steps = [SEARCH, "Response:Everest\nPeaks: Everest is high. (http://peaks)\n", CALCULATE]
    steps += ["Response:29032.15223\n", ANSWER]
    at = -1
    for step in steps:
        found = shown.find(step.strip(), at + 1)
        assert found > at
        at = found


def test_the_model_reads_what_it_was_trained_on(agent, tokenizer):
    """The dialogue of the agent is, token for token, what training makes of the same one."""
    tool = Tool("weather", "the weather", lambda city: "{'rain': 'no'}", {"city": "its name"}, ("city",))
    system = '{"name": "weather", "description": "the weather", "paths": [{"parameters": '
    system += '[{"name": "city", "description": "its name"}]}]}'
    call = '```JSON\n{"api_name": "weather", "parameters": {"city": "Oslo"}}\n```'
    said = f"Let me see.<|startofthink|>{call}<|endofthink|><|startofexec|>"
    said += '```JSON\n{"rain": "no"}\n```<|endofexec|>It will not.'
    values = [("system", system), ("user", "Will it rain?"), ("assistant", said)]
    row = msagent_react_map_fn({"conversations": [{"from": who, "value": text} for who, text in values]})
    trained = template_map_fn_factory("internlm2_chat")(row)["conversation"]
    ids, _ = encode_conversations([trained], tokenizer).sample(0)
    found = agent([turn["output"] for turn in row["conversation"]], [tool])
    assert found.ask("Will it rain?").text == "It will not."
    assert found.session.history_ids() == ids.tolist()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("Thought:x\nAction:fly\nAction Input:{}\n", "there is no tool 'fly'; there are calculate"),
        (
            'Thought:x\nAction:calculate\nAction Input:{"x": 1}\n',
            "does not take x; it takes expression",
        ),
        ("Thought:x\nAction:calculate\nAction Input:{}\n", "calculate needs expression"),
        ('Thought:x\nAction:calculate\nAction Input:{"expression": "1/0"}\n', "division by zero"),
        (
            "Thought:x\nAction:calculate\nAction Input:{broken\n",
            "is not a JSON object with expression",
        ),
        ("I would rather talk.\n", "格式错误"),
    ],
)
def test_the_model_receives_errors_of_malformed_calls(agent, reply, message):
    """The model receives the error and may try again."""
    found = agent([reply, ANSWER])
    assert found.ask("?").text == "29,032 feet"
    assert message in found.session.turns[1].system


def test_the_loop_is_bounded(agent, caplog):
    """A model that never answers is asked to, then stopped; text without the format is the answer."""
    call = 'Thought:again\nAction:calculate\nAction Input:{"expression": "1+1"}\n'
    found = agent([call] * (MAX_STEPS + 5))
    found.ask("?")
    assert len(found.session.turns) == MAX_STEPS
    assert "Final Answer" in found.session.turns[-1].system
    assert "ended without a final answer" in caplog.text
    talker = agent(["Hello!\n", "Hello again!"] * 3)
    assert talker.ask("hi").text == "Hello again!"
    assert len(talker.session.turns) == 2


def test_a_model_that_answers_for_the_tool_is_stopped(agent):
    """Nothing that the model makes up as the tool's answer is read."""
    made_up = 'Thought:x\nAction:calculate\nAction Input:{"expression": "1+1"}\nResponse:3\nFinal Answer:3'
    found = agent([made_up, "Final Answer:2"])
    assert found.ask("?").text == "2"
    assert found.session.turns[1].system == "Response:2\n"
    assert "Response:3" not in found.session.turns[0].answer_text


def test_undo_forgets_all_steps_of_a_question(agent):
    """A question goes with its calls."""
    found = agent([ANSWER, CALCULATE, ANSWER])
    found.ask("one")
    before = found.session.history_ids()
    found.ask("two")
    assert len(found.session.turns) == 3
    assert found.session.undo()
    assert found.session.history_ids() == before


def test_the_oldest_question_goes_with_its_steps(agent):
    """A full context drops a question and what its tools answered at once, never the question it is at."""
    found = agent([CALCULATE, ANSWER, CALCULATE, ANSWER], max_new_tokens=10)
    found._answerer.settings = Settings("m", temperature=0)
    found.ask("one")
    first = len(found.session.history_ids())
    found.session.context = first + 180
    found._answerer.settings = Settings("m", temperature=0, max_new_tokens=100)
    found.ask("two")
    assert [turn.text for turn in found.session.turns] == ["two\n", ""]


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("Final Answer: 4", Step(answer="4")),
        ("Thought：x\nFinal Answer：4\n5\n", Step(answer="4\n5")),
        ("Action: a\nAction Input: {}\n", Step(name="a", input="{}")),
        ("Action： `a`\nAction Input：x\nFinal Answer: 4", Step(name="a", input="x")),
        ("Final Answer: do\nAction: a\nAction Input: b", Step(answer="do\nAction: a\nAction Input: b")),
        ("Action: a\n", Step()),
        ("", Step()),
    ],
)
def test_reading_a_step(text, step):
    """Colons of both kinds, spaces and quotes do not matter; what comes first counts."""
    assert read_step(text) == step


def test_reading_arguments():
    """JSON, Python's spelling, a fence, or the bare text of a tool with one parameter."""
    one = tool_from_function(_weather)
    for text in ('{"city": "Oslo"}', "{'city': 'Oslo'}", '```json\n{"city": "Oslo"}\n```', "Oslo", '"Oslo"'):
        assert read_arguments(text, one) == {"city": "Oslo"}
    assert read_arguments('{"city": "Oslo"} and then', one) == {"city": "Oslo"}
    two = Tool("t", "d", print, {"a": "", "b": ""}, ("a", "b"))
    with pytest.raises(ToolError, match="not a JSON object with a, b"):
        read_arguments("x", two)
    assert read_arguments("", Tool("t", "d", print)) == {}


def _weather(city: str, days: int = 1) -> str:
    """The weather
    of the next days.

    Args:
        city: the name of a city
        days (int): how many
    """
    return f"{days} days of rain in {city}"


def test_a_function_as_a_tool():
    """Name, first paragraph, parameters and types come from the function; results and time are bounded."""
    tool = tool_from_function(_weather)
    assert (tool.name, tool.description) == ("_weather", "The weather of the next days.")
    assert (tool.parameters, tool.required) == ({"city": "the name of a city", "days": "how many"}, ("city",))
    assert tool.call({"city": "Oslo", "days": "3"}) == "3 days of rain in Oslo"
    with pytest.raises(ToolError, match="days is 'x', not a value of type int"):
        tool.call({"city": "Oslo", "days": "x"})
    assert Tool("t", "d", lambda: "x" * 5000).call({}).endswith("x ... (1000 more characters left out)")
    with pytest.raises(ToolError, match=r"t did not answer within 0\.05 s"):
        Tool("t", "d", lambda: __import__("time").sleep(1)).call({}, seconds=0.05)
    with pytest.raises(ToolError, match="division by zero"):
        Tool("t", "d", lambda: 1 / 0).call({})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "defines no public function"),
        ("def f(x): pass", "f has no docstring"),
        ("async def f(): 'F.'", "f is async"),
        ("def f(*x): 'F.'", r"f takes \*x; a model can only give named arguments"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def", "SyntaxError"),
    ],
)
def test_files_of_tools_that_cannot_be_used(tmp_path, source, message):
    """The error of a file names the file."""
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=message):
        tools_from_file(path)


def test_a_file_of_tools(tmp_path):
    """Public functions that the file itself defines are tools."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from math import sqrt\ndef add(a: int, b: int):\n    'Add.'\n    return a + b\ndef _no(): pass\n"
    )
    (tool,) = tools_from_file(path)
    assert tool.call({"a": "2", "b": 3}) == "5"
    with pytest.raises(NotFoundError):
        tools_from_file(tmp_path / "none.py")


SERVER = """
    from mcp.server import MCPServer

    server = MCPServer("test")

    @server.tool()
    def shout(text: str) -> str:
        "Say it loud."
        if not text:
            raise ValueError("nothing to say")
        return text.upper()

    server.run()
"""


def test_an_mcp_server(tmp_path):
    """Tools of a server over stdio are called like others; their errors are passed on."""
    pytest.importorskip("mcp", reason="the package mcp is not installed")
    (tmp_path / "server.py").write_text(textwrap.dedent(SERVER))
    path = tmp_path / "servers.json"
    server = {"command": sys.executable, "args": [str(tmp_path / "server.py")]}
    path.write_text(json.dumps({"mcpServers": {"test": server}}))
    servers = McpServers(path)
    try:
        (tool,) = servers.tools
        assert (tool.name, tool.description, tool.required) == ("shout", "Say it loud.", ("text",))
        assert tool.call({"text": "hi"}) == "HI"
        with pytest.raises(ToolError, match="Error executing tool shout"):
            tool.call({"text": ""})
    finally:
        servers.close()
    with pytest.raises(ToolError, match="has ended"):
        tool.call({"text": "hi"})
    (tmp_path / "server.py").write_text("raise SystemExit('no licence')")
    path.write_text(json.dumps({"mcpServers": {"test": server}}))
    with pytest.raises(ConfigError, match="the MCP server 'test' did not start: no licence"):
        McpServers(path)
    path.write_text('{"mcpServers": {"gone": {"command": "/no/such/program"}}}')
    with pytest.raises(ConfigError, match="the MCP server 'gone' did not start"):
        McpServers(path)


def test_a_list_of_servers_that_is_none(tmp_path):
    """A file in another form is refused with the form."""
    path = tmp_path / "servers.json"
    for text in ("{}", "[]", "{", '{"mcpServers": {"a": {"args": []}}}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="names no MCP servers: write"):
            McpServers(path)
