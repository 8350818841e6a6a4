"""The folders of the tutorials, with a small InternLM2 instead of the real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
QUESTIONS = ["你是谁", "请你介绍一下你自己", "你是我的小助手吗", "Who are you?"]
SYSTEM = "现在你是一个心理专家，我有一些心理问题，请你用专业的知识帮我解决。"


@pytest.fixture(scope="session")
def internlm2_folder(tmp_path_factory) -> Path:
    """A model folder as the hub has it: config and tokenizer name remote code, no tokenizer.json."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("internlm2")
    shutil.copytree(DATA / "internlm2_tiny", folder, dirs_exist_ok=True)
    (folder / "expected_logits.safetensors").unlink()
    text = [*QUESTIONS, SYSTEM, "我是小明的小助手。", "Below is an instruction that describes a task."] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<|im_start|>", "<|im_end|>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    for name in ("configuration_internlm2", "modeling_internlm2", "tokenization_internlm2"):
        (folder / f"{name}.py").write_text("raise SystemExit('remote code must not run')\n")
    names = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    config = {"auto_map": names, "tokenizer_class": "InternLM2Tokenizer", **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def tutorial_001(tmp_path, internlm2_folder) -> Path:
    """`config/`, `model/`, `data/`; commands run in `config/`."""
    shutil.copytree(internlm2_folder, tmp_path / "model")
    (tmp_path / "data").mkdir()
    (tmp_path / "config").mkdir()
    rows = [{"instruction": q, "input": "", "output": "我是小明的小助手。"} for q in QUESTIONS] * 20
    text = json.dumps(rows * 2, ensure_ascii=False)
    (tmp_path / "data" / "self_cognition_xuexi_100.json").write_text(text, encoding="utf-8")
    shutil.copy(DATA / "seed_configs" / "internlm2_1_8b_qlora_alpaca_e3_copy.py", tmp_path / "config")
    return tmp_path / "config"


@pytest.fixture
def tutorial_003(tmp_path, internlm2_folder) -> Path:
    """`models/`, `data/`, `train/`; commands run above them."""
    shutil.copytree(internlm2_folder, tmp_path / "models" / "internlm2-chat-1_8b")
    (tmp_path / "data").mkdir()
    (tmp_path / "train").mkdir()
    turns = [{"system": SYSTEM, "input": "医生，我最近总觉得烦躁。", "output": "别着急，我们慢慢说。"}]
    rows = [{"conversation": [*turns, {"input": f"第{i}天了", "output": "多休息。"}]} for i in range(60)]
    text = json.dumps(rows, ensure_ascii=False)
    (tmp_path / "data" / "emo_1234_xtuner.json").write_text(text, encoding="utf-8")
    shutil.copy(DATA / "seed_configs" / "internlm2_chat_1_8b_qlora_emo_e3.py", tmp_path / "train")
    return tmp_path
