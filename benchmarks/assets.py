"""The model and the rows that every training of `train_speed.py` starts from.

<place>/model/          a Llama of random weights and a tokenizer that knows the texts
<place>/messages.jsonl  {"messages": [user, assistant]}              rows that fit into the length
<place>/prompts.jsonl   {"prompt": [user], "completion": [assistant]}   the same rows for TRL
<place>/dataset_info.json                                               where LLaMA-Factory finds them
"""

from __future__ import annotations

import json
from pathlib import Path

from texts import alpaca_rows, make_tokenizer, write_rows

VOCABULARY = 32_000
# 56 million weights, 23.6 of them in the layers, which take about 177 MFLOP a token to train with LoRA r=64.
SMALL = dict(
    vocab_size=VOCABULARY,
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=1408,
    max_position_embeddings=4096,
)
# As large as Llama 3.1 8B.
LARGE = dict(
    vocab_size=128_256,
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    max_position_embeddings=8192,
)


def make_assets(place: Path, shape: dict[str, int], rows: int, length: int) -> None:
    """Write everything, unless it exists already."""
    wanted = json.dumps({"shape": shape, "rows": rows, "length": length}, sort_keys=True)
    done = place / "made"
    if done.is_file() and done.read_text("utf-8") == wanted:
        return
    place.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.save_pretrained(place / "model")
    make_model(place / "model", shape, tokenizer)
    write_data(place, tokenizer, rows, length)
    done.write_text(wanted, "utf-8")


def make_model(folder: Path, shape: dict[str, int], tokenizer) -> None:
    """Save a Llama of random weights; in bf16 and on the GPU if it is large."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    large = shape["hidden_size"] >= 4096
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if large else torch.float32)
    try:
        with torch.device("cuda" if large and torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(LlamaConfig(**shape, **ids, tie_word_embeddings=False))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    if model.device.type == "cuda":
        # The trainings that follow are other processes and need this memory.
        del model
        torch.cuda.empty_cache()


def write_data(place: Path, tokenizer, rows: int, length: int) -> None:
    """Write the rows that are shorter than `length`, so that no program cuts or drops one."""
    kept = []
    for row in alpaca_rows(rows):
        question = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        chat = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": row["output"]},
        ]
        # 16 less: programs add different texts around a chat.
        if len(tokenizer.apply_chat_template(chat, return_dict=False)) <= length - 16:
            kept.append(chat)
    write_rows([{"messages": chat} for chat in kept], place / "messages.jsonl")
    write_rows([{"prompt": chat[:1], "completion": chat[1:]} for chat in kept], place / "prompts.jsonl")
    info = {
        "file_name": "messages.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    (place / "dataset_info.json").write_text(json.dumps({"rows": info}, indent=1), "utf-8")
