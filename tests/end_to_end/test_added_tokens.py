"""Tokens added to a tokenizer in a separate folder: trained, converted, merged and used in chat."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner import cli, log
from xtuner.chat.terminal import PROMPT
from xtuner.errors import ModelError
from xtuner.model.tokenizer import load_tokenizer

CHATS = [{"instruction": f"<call> {i}", "output": f"<answer> {i} <answer>"} for i in range(8)]
SHORT = ("--max-new-tokens", 8, "--torch-dtype", "fp32", "--temperature", 0, "--prompt-template", "qwen_chat")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, llama_dir, tokenizer, monkeypatch):
    """`base` is the model, `tok` a folder with its tokenizer and two more tokens, `d.json` rows with them."""
    import shutil

    shutil.copytree(llama_dir, tmp_path / "base")
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<call>", "<answer>"])
    larger.save_pretrained(tmp_path / "tok")
    (tmp_path / "d.json").write_text(json.dumps(CHATS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "_said", set())
    return tmp_path


BOTH = "modules_to_save=['embed_tokens', 'lm_head']"


def train(here, run, method, saved=BOTH):
    """A run with the tokenizer of `tok`; its result as pth_to_hf writes it."""
    run("new-cfg", "--model", "base", "--data", "d.json", "--method", method, "--out", "c.py")
    text = (here / "c.py").read_text()
    own = "pretrained_model_name_or_path=pretrained_model_name_or_path"
    before, _, after = text.partition("tokenizer = dict(")
    text = before + "tokenizer = dict(" + after.replace(own, "pretrained_model_name_or_path='tok'", 1)
    text = text.replace("type=SupervisedFinetune,", "type=SupervisedFinetune, tokenizer=tokenizer,", 1)
    if method == "lora":
        text = text.replace("type=LoraConfig,", f"type=LoraConfig, {saved},", 1)
    (here / "c.py").write_text(text)
    run("check", "c.py")
    run("train", "c.py", "--work-dir", "w", "--cfg-options", "max_epochs=1", "lr=0.01")
    run("convert", "pth_to_hf", "c.py", max(here.glob("w/iter_*.pth")), "result", "--fp32")
    return here / "result"


def check_whole(folder, base):
    """The folder knows the tokens, and has rows for them that were trained."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode("<call><answer>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<call>", "<answer>"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = model.get_input_embeddings().weight
    assert model.config.vocab_size == len(rows) == len(model.lm_head.weight) == 448 > max(ids)
    mean = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight.mean(0)
    assert all((rows[i] - mean).abs().max() > 1e-4 for i in ids)


def test_full(here, run):
    folder = train(here, run, "full")
    check_whole(folder, here / "base")
    assert len(run("chat", folder, *SHORT, script="hello").split(PROMPT)[1]) > 1


def test_lora(here, run):
    """The adapter brings the tokenizer; merged or beside its base it gives one answer."""
    folder = train(here, run, "lora")
    assert len(AutoTokenizer.from_pretrained(folder)) == len(AutoTokenizer.from_pretrained("tok"))
    beside = run("chat", "base", "--adapter", folder, *SHORT, script="<call> 1")
    run("convert", "merge", "base", folder, "merged")
    check_whole(here / "merged", here / "base")
    assert run("chat", "merged", *SHORT, script="<call> 1") == beside


def test_new_rows_of_one_end_alone_are_not_merged(here, run, capsys):
    """Of an untied model the other end has none for the new tokens."""
    folder = train(here, run, "lora", "modules_to_save=['embed_tokens']")
    assert cli.main(["convert", "merge", "base", str(folder), "merged"]) == 1
    assert "holds no new rows of lm_head.weight: train with both the embedding and" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "knows"),
    [
        (["tokenizer.json"], True),
        (["tokenizer.json", "tokenizer_config.json"], True),
        (["vocab.json", "merges.txt", "tokenizer_config.json"], True),
        (["tokenizer_config.json"], False),
        (["tekken.json"], False),
    ],
)
def test_a_tokenizer_folder_by_its_files(names, knows, here):
    """A folder that cannot be loaded is an error in one line."""
    core = json.loads((here / "tok" / "tokenizer.json").read_text())["model"]
    merges = "\n".join(" ".join(pair) for pair in core["merges"])
    content = {
        "vocab.json": json.dumps(core["vocab"]),
        "merges.txt": f"#version: 0.2\n{merges}\n",
        "tekken.json": "{}",
    }
    folder = here / "alone"
    folder.mkdir()
    for name in names:
        file = here / "tok" / name
        text = content[name] if name in content else file.read_text()
        if name == "tokenizer_config.json" and "vocab.json" in names:
            text = '{"tokenizer_class": "GPT2Tokenizer"}'
        (folder / name).write_text(text)
    if knows:
        tokenizer = load_tokenizer(folder)
        assert tokenizer.decode(tokenizer("hello world").input_ids) == "hello world"
        return
    with pytest.raises(ModelError) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)
    assert ("mistral-common" in str(error.value)) == (names == ["tekken.json"])
