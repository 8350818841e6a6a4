"""Tiny models and tokenizers, made in-process once per session; no network, no GPU."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Whatever the terminal speaks, the tests read English.
os.environ["XTUNER_LANG"] = "en"
# Tokens that a test prepares are nobody else's: a folder of this session's own, gone at its end.
_CACHE = tempfile.TemporaryDirectory(prefix="xtuner-tests-")
os.environ["XTUNER_CACHE"] = _CACHE.name

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter, which is chosen before anything imports Triton.
    os.environ["TRITON_INTERPRET"] = "1"

DATA = Path(__file__).parent / "data"
TEXTS = [
    "You are a helpful assistant. Who are you? I am a small model.",
    "你是谁？我是一个小助手。请介绍一下你自己。今天天气怎么样？",
    "def add(a, b):\n    return a + b\n",
    "<|User|>:hello<|Bot|>:Hi! How can I help you today?",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(autouse=True)
def _one_thread():
    # On tiny matrices a second thread costs more than it brings.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _log_as_at_first(monkeypatch):
    """What an earlier test has done to the log is undone; nothing has been said yet."""
    monkeypatch.setattr("xtuner.log._said", set())
    logger = logging.getLogger("xtuner")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def untold(monkeypatch) -> set[str]:
    """Messages are Chinese from here on; the English texts that have none."""
    from xtuner.chinese import CHINESE

    unknown = set()

    class Watched(dict):
        def get(self, text, default=None):
            if text not in self and re.search("[A-Za-z]{2}", text) and not re.search("[\u4e00-\u9fff]", text):
                unknown.add(text)
            return super().get(text, default)

    monkeypatch.setenv("XTUNER_LANG", "zh")
    monkeypatch.setattr("xtuner.chinese.CHINESE", Watched(CHINESE))
    return unknown


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer of about 400 entries with `<s>`, `</s>`, `<pad>` and chatml marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory, tokenizer) -> Callable[..., Path]:
    """Function of a family and its sizes: the folder of a small random model with the tiny tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512}

    def save(family: str, **sizes: Any) -> Path:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**size, **sizes}))
        for name, parameter in model.named_parameters():
            # Zero at first: nothing would be seen of what they do.
            if "sinks" in name:
                torch.nn.init.normal_(parameter)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def llama_dir(saved, tokenizer) -> Path:
    """A folder with a random two-layer Llama (grouped heads) in fp32 and the tiny tokenizer."""
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return saved("llama", hidden_size=64, intermediate_size=128, **ends)


@pytest.fixture(scope="session")
def adapter_dir(llama_dir, tmp_path_factory):
    """An adapter on the tiny Llama that changes its answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_dir), lora)
        folder = tmp_path_factory.mktemp("adapters") / "poet"
        model.save_pretrained(str(folder))
    (folder / "xtuner_config.py").write_text("prompt_template = 'internlm2_chat'\n")
    return folder


@pytest.fixture(scope="session")
def scoring_dir(tmp_path_factory, saved) -> Callable[..., Path]:
    """Function of a family, and of fields of its config: the folder of a random model that scores texts."""
    bases: dict[str, Path] = {}

    def save(family: str = "llama", chat_template: str | None = "", **fields: Any) -> Path:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        from tests.end_to_end.test_dpo import TEMPLATE
        from xtuner.model.loading import register_families

        register_families()
        base = bases.setdefault(family, saved(family))
        folder = tmp_path_factory.mktemp(f"{family}_scores")
        for file in base.glob("*token*"):
            shutil.copy(file, folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        if chat_template is not None:
            settings["chat_template"] = chat_template or TEMPLATE
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        config = AutoConfig.from_pretrained(base)
        for name, value in {"pad_token_id": 3, "num_labels": 1, **fields}.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def reward_dir(scoring_dir, tokenizer) -> Path:
    """A Llama with a head of one number; its samples end with the reward token `<|im_end|>`."""
    return scoring_dir(reward_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"))


@pytest.fixture(scope="session")
def llava(tmp_path_factory, llama_dir, tokenizer):
    """The folders of a tiny LLaVA in both layouts: `llm`, `clip`, `parts`, `whole`."""
    from tests.llava import save_llava

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save_llava(tmp_path_factory.mktemp("llava"), llama_dir, tokenizer)


@pytest.fixture
def picture(tmp_path):
    """A file with an image that is no square."""
    from tests.llava import picture_file

    return picture_file(tmp_path / "cat.png")


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., str]:
    """Function of the words of a command that must succeed, and of what is typed: its output, and its log."""

    def call(*words: Any, script: str = "", with_log: bool = False) -> str:
        from xtuner import cli

        monkeypatch.setattr("sys.stdin", io.StringIO(script))
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out + err * with_log

    return call
