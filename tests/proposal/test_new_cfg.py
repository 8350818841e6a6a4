"""From a model folder and a data file to a trained adapter in two commands and no editing."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.families.configs import make
from xtuner import cli
from xtuner.check.checks import check_config
from xtuner.config import load_config

CHATS = [{"instruction": f"who are you {i}", "output": f"a small model {i}"} for i in range(8)]
TEMPLATES = Path(__file__).parents[1] / "data" / "chat_templates"
TEXTS = [{"text": f"Once upon a time there was model number {i}. " * 4} for i in range(8)]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch):
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(CHATS), encoding="utf-8")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, TEXTS)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_commands(here, capsys):
    """The written config trains as it is and leaves a checkpoint."""
    assert cli.main(["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "family llama",
        "8 rows",
        "prompt_template = qwen_chat  (its marks",
        "Next: xtuner train my.py",
    ):
        assert line in printed
    assert cli.main(["train", "my.py", "--work-dir", "w"]) == 0
    assert list((here / "w").glob("iter_*.pth"))


OWN = "auto  (the tokenizer brings its own chat_template; rendered with and without tools its text "
MARKS = "qwen_chat  (its marks <|im_start|> and <|im_end|> are tokens of the tokenizer; it writes no tools, "


@pytest.mark.parametrize(
    ("head", "chosen"),
    [
        (
            "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}",
            f"{OWN}differs, so the tools of 5 of 5 rows looked at are written)",
        ),
        ("", f"{OWN}is the same, so the tools of 5 of 5 rows looked at are left out)"),
        (None, f"{MARKS}which 5 of 5 rows looked at have: only a tokenizer's own chat_template does)"),
    ],
)
def test_the_template_is_tried_on_rows_with_tools(here, capsys, head, chosen):
    """Whether it writes them is seen by rendering a row."""
    if head is not None:
        text = head + (TEMPLATES / "chatml.jinja").read_text("utf-8")
        settings = json.loads((here / "model/tokenizer_config.json").read_text())
        (here / "model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": text}))
    turns = [{"role": "user", "content": "Will it rain?"}, {"role": "assistant", "content": "No."}]
    weather = {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": weather}]
    (here / "tools.jsonl").write_text(5 * (json.dumps({"messages": turns, "tools": tools}) + "\n"))
    assert cli.main(["new-cfg", "--model", "model", "--data", "tools.jsonl", "--out", "my.py"]) == 0
    assert f"prompt_template = {chosen}" in capsys.readouterr().out


def test_new_cfg_and_check_say_the_same_memory(here, capsys):
    """Of the config that the one writes and the other reads."""
    assert cli.main(["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"]) == 0
    (proposed,) = re.findall(r"^memory   about (.* [GM]B) \(", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["check", "my.py"]) == 0
    assert re.findall(r"^memory   about (.* [GM]B) \(", capsys.readouterr().out, re.MULTILINE) == [proposed]


PAIR = {"prompt": "Who?", "chosen": "I am Pia.", "rejected": "No."}


@pytest.mark.parametrize(
    ("row", "more"),
    [
        ({"conversation": [{"input": "Who?", "output": "Pia."}]}, []),
        ({"text": "Pia keeps the library."}, ["--method", "full"]),
        (PAIR, []),
        (PAIR, ["--method", "dpo_full", "--template", "qwen_chat"]),
        ({"question": "Who?", "answer": "Pia."}, ["--method", "grpo", "--reward", "exact"]),
        ({"question": "Who?"}, ["--method", "grpo_full", "--reward", "exact"]),
    ],
)
def test_every_reason_is_told_in_chinese(row, more, here, untold, capsys):
    """For conversations, texts, pairs and prompts."""
    (here / "d.json").write_text(json.dumps([row] * 50), encoding="utf-8")
    assert cli.main(["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py", *more]) == 0
    reasons = [line.partition("  (")[2] for line in capsys.readouterr().out.splitlines() if " = " in line]
    assert len(reasons) > 7
    assert [reason for reason in reasons if not re.search("[\u4e00-\u9fff]", reason)] == []
    assert untold == set()


def test_the_facts_and_the_next_command_are_told_in_chinese(here, capsys, monkeypatch):
    monkeypatch.setenv("XTUNER_LANG", "zh")
    assert cli.main(["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"]) == 0
    model, data, *_, memory, wrote = capsys.readouterr().out.splitlines()
    assert model == "模型     model：llama 系列，512 个位置"
    assert data.startswith("数据     d.json：8 行，约 ")
    assert memory.startswith("内存     约 ")
    assert wrote == "已写入 my.py。下一步：xtuner train my.py"


MIXED = ["linear_attention", "full_attention"]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3_next", {"layer_types": MIXED}),
        ("qwen3_5_text", {"layer_types": MIXED}),
        ("olmo_hybrid", {"layer_types": MIXED}),
        ("mamba", {}),
        ("bloom", {}),
        ("gpt_oss", {}),
    ],
)
def test_two_commands_for_a_family_whose_samples_cannot_or_could_not_share_a_row(
    family, changes, here, tokenizer, capsys
):
    """A state carried along the row, ALiBi, sinks: the usual config, packing and all, trains."""
    shutil.rmtree(here / "model")
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, **special}
    model = make(family, None, **sizes, **changes)
    model.save_pretrained(here / "model")
    tokenizer.save_pretrained(here / "model")
    words = ["--model", "model", "--data", "d.json", "--method", "lora", "--out", "my.py"]
    assert cli.main(["new-cfg", *words]) == 0
    assert load_config("my.py").train_dataloader.dataset.pack_to_max_length
    options = ["max_epochs=2", "custom_hooks.1.max_new_tokens=4"]
    assert cli.main(["train", "my.py", "--work-dir", "w", "--cfg-options", *options]) == 0
    assert (here / "w" / "iter_2.pth").is_file()
    assert "No sample for" not in capsys.readouterr().err


def test_training_goes_on_from_an_adapter_folder(here):
    """With the adapter's own settings, whatever the config's are; the result says them."""
    words = ["--model", "model", "--data", "d.json", "--method", "lora", "--out", "my.py"]
    assert cli.main(["new-cfg", *words]) == 0
    options = ["max_epochs=1", "custom_hooks.1.max_new_tokens=4"]
    first = [*options, "model.lora.r=4", "model.lora.lora_alpha=6"]
    assert cli.main(["train", "my.py", "--work-dir", "w", "--cfg-options", *first]) == 0
    (saved,) = (here / "w").glob("iter_*.pth")
    assert cli.main(["convert", "pth_to_hf", "w/my.py", str(saved), "adapter"]) == 0
    again = [*options, "load_from=adapter"]
    assert cli.main(["train", "my.py", "--work-dir", "v", "--cfg-options", *again]) == 0
    (saved,) = (here / "v").glob("iter_*.pth")
    assert cli.main(["convert", "pth_to_hf", "v/my.py", str(saved), "next"]) == 0
    said = json.loads((here / "next" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"]) == (4, 6)
    assert (here / "next" / "adapter_model.safetensors").read_bytes() != (
        here / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
@pytest.mark.parametrize("file", ["d.json", "t.jsonl"])
def test_what_it_writes_passes_the_check(here, file, method):
    words = ["--model", "model", "--data", file, "--method", method, "--out", "my.py", "--lang", "zh"]
    assert cli.main(["new-cfg", *words]) == 0
    config = load_config("my.py")
    assert check_config(config).errors == []
    assert config.max_length == 256
    assert "# 模型" in (here / "my.py").read_text(encoding="utf-8")


def test_it_keeps_what_the_user_edited(here, capsys):
    words = ["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"]
    (here / "my.py").write_text("mine = True\n")
    assert cli.main(words) == 1
    assert "my.py exists with other content: pass --force" in capsys.readouterr().err
    assert cli.main([*words, "--force"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "./nope", "--data", "d.json"], "There is no model folder ./nope"),
        (["--model", "model", "--data", "x.json"], "there is no data file x.json"),
        (["--model", "model", "--data", "d.json", "--template", "qwen_caht"], "Did you mean 'qwen_chat'"),
        (["--model", "model", "--data", "d.json", "--out", "my.txt"], "name it my.py"),
    ],
)
def test_a_wrong_word_is_one_line(here, words, message, capsys):
    assert cli.main(["new-cfg", *words]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
