"""`xtuner chat` on a tiny model, with a script on stdin."""

import io
import shutil

import pytest

from xtuner import cli
from xtuner.chat.terminal import PROMPT
from xtuner.errors import XTunerError
from xtuner.tools.chat import main, parse_args

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def chat(monkeypatch, capsys):
    """Run the command with `script` on stdin; returns what it wrote to stdout."""

    def run(*argv, script):
        monkeypatch.setattr("sys.stdin", io.StringIO(script))
        assert main([str(a) for a in argv]) == 0
        return capsys.readouterr().out

    return run


SHORT = ("--max-new-tokens", 4, "--torch-dtype", "fp32")


def test_a_scripted_dialogue(llama_dir, chat):
    """Empty lines end inputs, RESET clears, EXIT ends; the same seed gives the same answer after RESET."""
    script = "hello\n\nwho are\nyou?\n\nRESET\n\nhello\n\nEXIT\n\nnever read\n\n"
    greedy = (*SHORT, "--temperature", 0, "--prompt-template", "default")
    out = chat(llama_dir, *greedy, script=script)
    parts = out.split(PROMPT)
    assert len(parts) == 6
    assert parts[0] == ""
    assert parts[3] == "Log: History responses have been removed!\n"
    assert parts[5] == "Log: Exit!\n"
    assert parts[1] == parts[4] != "\n"
    assert chat(llama_dir, *greedy, "--no-streamer", script=script) == out


def test_the_end_of_stdin_ends_the_dialogue(llama_dir, chat):
    """A last question without an empty line is answered; empty input asks again."""
    out = chat(llama_dir, *SHORT, "--prompt-template", "default", script="\n\nhello")
    parts = out.split(PROMPT)
    assert parts[:3] == ["", "", ""]
    assert len(parts) == 4
    assert parts[3].endswith("\n")


def test_settings_reach_the_answer(llama_dir, chat):
    """Stop words, system texts, seeds and sampling settings change the answer."""

    def ask(*more):
        return chat(llama_dir, *SHORT, "--prompt-template", "default", *more, script="hello").split(PROMPT)[1]

    wild = ("--temperature", 50, "--top-k", 0, "--top-p", 1.0)
    assert ask(*wild) == ask(*wild, "--seed", 0) != ask(*wild, "--seed", 1)
    plain = ask("--temperature", 0)
    assert ask("--temperature", 0, "--system", "You are a pirate.") != plain
    assert ask("--temperature", 0, "--system-template", "moss_sft", "--bot-name", "Max") != plain
    assert ask("--temperature", 0, "--stop-words", plain[:2]) == "\n"
    assert ask("--temperature", 0, "--answer-stop-word", plain[:2]) == "\n"


def test_an_adapter_and_its_template(llama_dir, chat, tmp_path, caplog):
    """The template is that of the adapter's config; its answer differs from the base's."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(llama_dir),
        LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "xtuner_config.py").write_text("prompt_template = 'default'\n")
    greedy = (*SHORT, "--temperature", 0)
    tuned = chat(llama_dir, "--adapter", tmp_path / "adapter", *greedy, script="hello")
    assert tuned != chat(llama_dir, *greedy, "--prompt-template", "default", script="hello")


@pytest.mark.parametrize("bits", ["4", "8"])
@pytest.mark.filterwarnings("ignore")
def test_quantised(llama_dir, chat, bits):
    """A model loads in 4 and 8 bits on the CPU too."""
    out = chat(llama_dir, "--bits", bits, "--max-new-tokens", 3, script="hello")
    assert len(out.split(PROMPT)) == 2


def test_a_question_too_long_does_not_end_the_dialogue(llama_dir, chat, caplog):
    """A question that exceeds the context is an error, and the next question is answered."""
    out = chat(llama_dir, *SHORT, "--prompt-template", "default", script="long " * 600 + "\n\nhello\n\n")
    assert len(out.split(PROMPT)[2]) > 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--with-plugins", "solve"], "--with-plugins needs a model tuned on MOSS's dialogues"),
        (
            ["--with-plugins", "search", "--prompt-template", "moss_sft"],
            "set the environment variable SERPER",
        ),
        (["--tools", "a.py"], "--tools a.py is for agents: add --lagent"),
        (["--lagent", "--tools", "no/a.py"], "--tools no/a.py: no such file"),
        (["--llava", "x"], "There is no LLaVA folder x"),
        (["--image", "x"], "reads no images here; name a vision-language model, or add --llava"),
        (["--visual-encoder", "x"], "--visual-encoder x is for the parts of a LLaVA model"),
        (["--visual-select-layer", "-2"], "--visual-select-layer -2 is for the parts of a LLaVA model"),
        (["--prompt-template", "qwen_chatt"], "Did you mean 'qwen_chat'"),
        (["--system-template", "coders"], "Did you mean 'coder'"),
        (["--temperature", "-1"], "--temperature is -1.0: write 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0: write 1 or more"),
        (["--top-p", "2"], "--top-p is 2.0"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_1(llama_dir, argv, message, capsys, monkeypatch):
    """Wrong settings are refused before the model is loaded."""
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(XTunerError, match=message):
        main([str(llama_dir), *argv])
    assert cli.main(["chat", str(llama_dir), *argv]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_model_is_an_error(capsys):
    """A missing folder is named."""
    assert cli.main(["chat", "./no/such/model"]) == 1
    assert "no/such/model" in capsys.readouterr().err


def test_defaults():
    """The flags and defaults that users know."""
    args = vars(parse_args(["m"]))
    known = {"torch_dtype": "fp16", "bits": None, "bot_name": "BOT", "max_new_tokens": 2048, "seed": 0}
    known |= {"temperature": 0.1, "top_k": 40, "top_p": 0.75, "repetition_penalty": 1.0}
    known |= {"prompt_template": None, "system": None, "system_template": None, "no_streamer": False}
    assert {key: args[key] for key in known} == known
    assert parse_args(["m", "--bits", "None"]).bits is None
    with pytest.raises(SystemExit):
        parse_args(["m", "--adapter", "a", "--llava", "b"])


def test_a_merged_folder_keeps_its_template(llama_dir, tmp_path, chat, caplog):
    """A model folder with `xtuner_config.py` needs no --prompt-template."""
    folder = shutil.copytree(llama_dir, tmp_path / "merged")
    greedy = (*SHORT, "--temperature", 0)
    asked = chat(folder, *greedy, "--prompt-template", "internlm2_chat", script="hello")
    (folder / "xtuner_config.py").write_text("prompt_template = 'internlm2_chat'\n")
    assert chat(folder, *greedy, script="hello") == asked
