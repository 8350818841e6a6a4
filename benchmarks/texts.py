"""Instruction data of real English and code, made of what every Python installation holds.

paragraphs of the standard library's sources and docstrings
    -> {"instruction": ..., "input": ..., "output": ...}    lengths as in alpaca, every text its own
    -> {"messages": [...]}                                   long chats
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
from pathlib import Path

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]


def paragraphs() -> list[str]:
    """Pieces of the standard library's sources, comments and docstrings, of more than 40 characters."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found: list[str] = []
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            words = path.read_text("utf-8", errors="ignore")
            found += (re.sub(r"[ \t]+", " ", part).strip() for part in re.split(r"\n\s*\n", words))
    return [part for part in dict.fromkeys(found) if len(part) > 40]


def alpaca_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows with answers of log-normal length: a median of about 180 characters and a long tail."""
    rng, parts = random.Random(seed), paragraphs()
    rows = []
    for number in range(count):
        length = int(min(6000, max(8, rng.lognormvariate(5.2, 1.0))))
        question = rng.choice(parts)
        output = f"{number}: {rng.choice(parts)}"
        while len(output) < length:
            output += "\n\n" + rng.choice(parts)
        instruction = f"{question[: rng.randint(30, 140)]} {number}"
        more = question[140 : rng.randint(141, 400)] if rng.random() < 0.4 else ""
        rows.append({"instruction": instruction, "input": more, "output": output[:length]})
    return rows


def chat_rows(count: int, turns: int, seed: int = 1) -> list[dict[str, list[dict[str, str]]]]:
    """Chats of `turns` questions and answers."""
    rows = alpaca_rows(count * turns, seed)
    chats = []
    for start in range(0, len(rows), turns):
        messages = []
        for row in rows[start : start + turns]:
            messages.append({"role": "user", "content": row["instruction"]})
            messages.append({"role": "assistant", "content": row["output"]})
        chats.append({"messages": messages})
    return chats


def write_rows(rows: list[dict], path: Path) -> Path:
    """The path of the file that now holds the rows, one per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def make_tokenizer(vocab_size: int = 32000):
    """A byte-level BPE tokenizer with a chatml template, trained on the same kind of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(paragraphs(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )
