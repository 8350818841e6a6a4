"""MOSS's plugins: what the model reads is what MOSS was trained on."""

import io

import pytest
from transformers import AutoModelForCausalLM

from tests.chat.scripted import script
from xtuner.chat.answer import Answerer
from xtuner.chat.line_input import PROMPT
from xtuner.chat.plugins import moss
from xtuner.chat.plugins.tool import plugin
from xtuner.chat.session import make_session
from xtuner.chat.settings import Settings
from xtuner.tools.chat import main

THOUGHT = '<|Inner Thoughts|>: Calculate.<eot>\n<|Commands|>: Calculate("3 * 4"), Solve("x = 1")<eoc>'
IDLE = "<|Inner Thoughts|>: None<eot>\n<|Commands|>: None<eoc>"
ANSWER = "<|MOSS|>: It is 12.<eom>"


@pytest.fixture
def say(llama_dir, tokenizer):
    """A model that generates these answers."""
    return lambda *answers: script(AutoModelForCausalLM.from_pretrained(llama_dir), tokenizer, answers)


def test_a_dialogue_with_plugins(say, tokenizer):
    """Commands are answered between <eoc> and the answer; a disabled plugin gives an error."""
    session = make_session(tokenizer, moss.MOSS_TEMPLATE, "S")
    answerer = Answerer(say(THOUGHT, ANSWER, IDLE, ANSWER), tokenizer, session, Settings("m", temperature=0))
    answer = moss.MossAnswerer(answerer, [plugin("calculate")])
    shown = []
    results = '<|Results|>:\nCalculate("3 * 4") => 12\nSolve("x = 1") =>\nError: Solve is disabled\n<eor>\n'
    first = f"{THOUGHT}\n{results}{ANSWER}"
    assert answer("3 * 4?", shown.append).text + "<eom>" == first
    assert "".join(shown) + "<eom>" == first
    answer("Thanks", shown.append)
    second = f"{IDLE}\n<|Results|>: None<eor>\n{ANSWER}"
    read = f"<s>S\n<|Human|>: 3 * 4?<eoh>\n{first}\n<|Human|>: Thanks<eoh>\n{second}\n"
    assert tokenizer.decode(session.history_ids()) == read


def test_an_answer_without_commands(say, tokenizer):
    """A model that does not keep to the form just answers."""
    session = make_session(tokenizer, moss.MOSS_TEMPLATE, "S")
    answerer = Answerer(say("<|MOSS|>: Hi!<eom>"), tokenizer, session, Settings("m", temperature=0))
    assert moss.MossAnswerer(answerer, [plugin("calculate")])("Hi", print).text == "<|MOSS|>: Hi!"
    assert len(session.turns) == 1


def test_the_system_text_names_what_is_enabled():
    """Plugins that are not asked for are disabled in the words of the training data."""
    text = moss.system_text(["solve"], "Max")
    assert text.startswith("You are an AI assistant whose name is Max.\n")
    assert "- Web search: disabled.\n- Calculator: disabled.\n- Equation solver: enabled. API: Solve" in text
    assert moss.system_text(["solve", "search", "calculate"], "MOSS").count(" enabled.") == 4


def test_on_the_command_line(say, llama_dir, tokenizer, monkeypatch, capsys):
    """`xtuner chat --with-plugins` shows thoughts, results and answer."""
    model = say(THOUGHT, ANSWER)
    monkeypatch.setattr("xtuner.tools.chat.start_console", lambda: None)  # a test leaves the logger as it is
    monkeypatch.setattr("xtuner.model.loading.load_for_chat", lambda *_, **__: (model, tokenizer))
    monkeypatch.setattr("sys.stdin", io.StringIO("3 * 4?\n\nEXIT\n"))
    flags = ["--with-plugins", "calculate", "--prompt-template", "moss_sft", "--temperature", "0"]
    assert main([str(llama_dir), *flags, "--no-streamer"]) == 0
    shown = capsys.readouterr().out.split(PROMPT)[1]
    assert 'Calculate("3 * 4") => 12\n' in shown
    assert shown.endswith("<|MOSS|>: It is 12.\n")
