"""What the commands of a dialogue do, on a tiny model."""

import json
import os
import signal

import pytest

from xtuner.chat.answer import Answerer
from xtuner.chat.commands import is_command
from xtuner.chat.dialogue import Dialogue
from xtuner.chat.screen import PlainScreen
from xtuner.chat.session import make_session
from xtuner.chat.settings import Settings
from xtuner.chat.terminal import talk
from xtuner.model.loading import load_for_chat
from xtuner.utils import PROMPT_TEMPLATE

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def dialogue(llama_dir):
    """A dialogue, and `said`: the output of each input."""
    model, tokenizer = load_for_chat(llama_dir, dtype="fp32")
    session = make_session(tokenizer, PROMPT_TEMPLATE.default)
    answerer = Answerer(model, tokenizer, session, Settings("m", max_new_tokens=6, temperature=0))
    written = []
    found = Dialogue(answerer, answerer, PlainScreen(written.append))

    def said(*inputs):
        written.clear()
        talk(found, iter(inputs))
        return "".join(written)

    found.said = said
    return found


def adapter(llama_dir, folder, seed, target="q_proj"):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=256, init_lora_weights=False, task_type="CAUSAL_LM", target_modules=[target]
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_dir), config).save_pretrained(str(folder))
    return str(folder)


def test_what_is_a_command():
    """A known name is a command, a near one a mistake; a path or a longer text is a question."""
    for text in ("EXIT", "RESET", "exit", "Reset", "/undo", "/save a b", "/unod", "/hepl"):
        assert is_command(text)
    for text in ("EXIT now", "exit?", "/tmp is full", "/etc/passwd", "/undo\nthis", "", "a /undo"):
        assert not is_command(text)


def test_undo_and_reset(dialogue):
    """After /undo and /reset the same question has the same answer as before."""
    first = dialogue.said("hello")
    assert dialogue.said("who are you?", "/undo").endswith("Log: The last turn has been removed!\n")
    assert dialogue.said("/undo", "/undo").endswith("Log: there is no turn to undo\n")
    assert dialogue.said("hello") == first
    assert dialogue.said("/reset", "hello") == "Log: History responses have been removed!\n" + first


def test_exit_ends_and_help_names_all(dialogue):
    """What comes after EXIT is not read; /help shows the commands; a near name is suggested."""
    assert dialogue.said("exit", "hello") == "Log: Exit!\n"
    dialogue.ended = False
    assert "/adapter [FOLDER|none]  show the adapter" in dialogue.said("/help")
    assert dialogue.said("/unod") == (
        "There is no command /unod. Did you mean '/undo'? /help shows all of them.\n"
    )


def test_the_system_text(dialogue):
    """/system shows it, and another one changes the answer."""
    plain = dialogue.said("hello")
    assert dialogue.said("/system") == "Log: there is no system text\n"
    assert dialogue.said("/reset", "/system Be a pirate.").endswith("the system text is: Be a pirate.\n")
    assert dialogue.said("hello") != plain


def test_a_saved_dialogue_goes_on_where_it_was(dialogue, tmp_path):
    """The file has the form of training data; loaded again the model has read the same."""
    path = tmp_path / "a dialogue.json"
    dialogue.said("/system Be kind.", "hello", "and you?", f"/save {path}")
    turns = json.loads(path.read_text())[0]["conversation"]
    assert [(turn.get("system"), turn["input"]) for turn in turns] == [
        ("Be kind.", "hello"),
        (None, "and you?"),
    ]
    going_on = dialogue.said("really?")
    dialogue.said("/reset", "/system other", f"/load {path}")
    assert dialogue.session.system == "Be kind."
    assert [turn.text for turn in dialogue.session.turns] == ["hello", "and you?"]
    # Random models write bytes that are no text; those are the same only as tokens.
    if "\ufffd" not in json.dumps(turns, ensure_ascii=False):
        assert dialogue.said("really?") == going_on


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("/save", "/save needs the name of a file"),
        ("/load", "/load needs the name of a file"),
        ("/load no/such", "Error: there is no file no/such"),
        ("/load {folder}/list.json", "list.json is no dialogue: it needs"),
        ("/save {folder}/list.json", "list.json exists and is not a dialogue: name another file"),
        ("/save {folder}/no/such.json", "cannot be written: No such file"),
        ("/adapter no/such", "Error: There is no adapter folder no/such"),
        ("/adapter", "Log: the adapter is: none"),
    ],
)
def test_mistakes_are_answered(dialogue, tmp_path, command, answer):
    """A command that fails names the reason, and the dialogue continues."""
    (tmp_path / "list.json").write_text("[1, 2]")
    assert answer in dialogue.said(command.format(folder=tmp_path))


def test_adapters_are_switched(dialogue, llama_dir, tmp_path, caplog):
    """Each adapter answers as if it had been loaded at the start; one that does not fit changes nothing."""
    one, two = adapter(llama_dir, tmp_path / "one", 1), adapter(llama_dir, tmp_path / "two", 2, "down_proj")
    broken = adapter(llama_dir, tmp_path / "broken", 3)
    text = (tmp_path / "broken" / "adapter_config.json").read_text()
    (tmp_path / "broken" / "adapter_config.json").write_text(text.replace("q_proj", "no_proj"))
    (tmp_path / "two" / "xtuner_config.py").write_text("prompt_template = 'qwen_chat'\n")
    plain = dialogue.said("hello")
    answers = {}
    for folder in (one, two, "none", two, one):
        assert dialogue.said(f"/adapter {folder}", "/reset").startswith(f"Log: the adapter is: {folder}\n")
        answer = dialogue.said("hello")
        assert answers.setdefault(folder, answer) == answer
    assert "trained with the prompt template qwen_chat" in caplog.text
    assert answers["none"] == plain
    assert len(set(answers.values())) == 3
    assert "does not fit" in dialogue.said(f"/adapter {broken}")
    assert dialogue.adapter == one
    assert dialogue.said("/reset", "hello").endswith(answers[one])
    model, tokenizer = load_for_chat(llama_dir, adapter=two, dtype="fp32")
    fresh = Answerer(
        model, tokenizer, make_session(tokenizer, PROMPT_TEMPLATE.default), dialogue.answerer.settings
    )
    assert fresh("hello", lambda piece: None).text + "\n" == answers[two]


def test_ctrl_c_ends_the_answer_only(dialogue, monkeypatch):
    """What came of the answer stays in the history."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    shown = []

    def show(piece):
        shown.append(piece)
        if len(shown) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    dialogue.screen.show = show
    handler = signal.getsignal(signal.SIGINT)
    dialogue.said("hello")
    assert signal.getsignal(signal.SIGINT) is handler
    assert 2 <= len(shown) < 6
    assert [turn.answer_text for turn in dialogue.session.turns] == ["".join(shown)]


def test_an_adapter_of_the_tokenizers_own_template_comes_back_without_a_warning(llama_dir, tmp_path, caplog):
    """A dialogue with PROMPT_TEMPLATE.auto has the template of an adapter that was trained with it."""
    folder = adapter(llama_dir, tmp_path / "one", 1)
    (tmp_path / "one" / "xtuner_config.py").write_text("prompt_template = 'auto'\n")
    model, tokenizer = load_for_chat(llama_dir, dtype="fp32")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    answerer = Answerer(model, tokenizer, make_session(tokenizer, PROMPT_TEMPLATE.auto), Settings("m"))
    written = []
    talk(Dialogue(answerer, answerer, PlainScreen(written.append)), iter([f"/adapter {folder}"]))
    assert written == [f"Log: the adapter is: {folder}\n"]
    assert "another" not in caplog.text
