"""A tokenizer as the metadata of a GGUF file.

tokenizer.json  BPE of bytes            ->  model "gpt2":  tokens, types, merges, the kind of splitting
                BPE with byte fallback  ->  model "llama": tokens, types, scores (minus the rank of the merge)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from xtuner.errors import ModelError
from xtuner.language import translate
from xtuner.log import logger

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def add_tokenizer(gguf: Any, writer: Any, tokenizer: Any, num_rows: int, ends: Sequence[int] = ()) -> None:
    """Write `tokenizer`, padded to the embedding's `num_rows`; `ends`: ids of end-of-turn tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(translate("the tokenizer has no tokenizer.json, which GGUF files need"))
    described = json.loads(backend.to_str())
    core = described["model"]
    if core["type"] != "BPE":
        raise ModelError(
            translate("the tokenizer is a {kind}: GGUF files are written for BPE only", kind=core["type"])
        )
    merges = [m if isinstance(m, str) else " ".join(m) for m in core["merges"]]
    tokens, types = _tokens(gguf, core["vocab"], described.get("added_tokens") or [], num_rows)
    if core.get("byte_fallback"):
        ranks = {
            "".join(pair): -float(rank)
            for rank, pair in reversed(list(enumerate(map(_pair, core["merges"]))))
        }
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([ranks.get(token, 0.0) for token in tokens])
        writer.add_add_space_prefix("never" not in json.dumps(described.get("pre_tokenizer")))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_splitting(described))
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name in ("bos", "eos", "unk", "pad"):
        if (token := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            {
                "bos": writer.add_bos_token_id,
                "eos": writer.add_eos_token_id,
                "unk": writer.add_unk_token_id,
                "pad": writer.add_pad_token_id,
            }[name](token)
    turns = [token for token in ends if token != tokenizer.eos_token_id]
    if turns:
        writer.add_eot_token_id(turns[0])
    if len(turns) > 1:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(turns[1:])))
        logger.warning(
            translate("a GGUF file holds one end-of-turn token: set llama.cpp to stop at %s too"), names
        )
    begins = bool(tokenizer.encode("a")[:1] == [tokenizer.bos_token_id])
    writer.add_add_bos_token(begins)
    if getattr(tokenizer, "chat_template", None):
        writer.add_chat_template(tokenizer.chat_template)


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second


def _tokens(
    gguf: Any, vocabulary: dict[str, int], added: list[dict[str, Any]], num_rows: int
) -> tuple[list[str], list[int]]:
    types = gguf.TokenType
    largest = max([*vocabulary.values(), *(int(entry["id"]) for entry in added)], default=-1)
    if largest >= num_rows:
        what = "the tokenizer has token {token}, the model's embedding {num_rows} rows"
        raise ModelError(translate(what, token=largest, num_rows=num_rows))
    tokens = [f"[PAD{i}]" for i in range(num_rows)]
    kinds = [int(types.UNUSED)] * num_rows
    for text, i in vocabulary.items():
        tokens[i] = text
        kinds[i] = int(types.BYTE if _BYTE.fullmatch(text) else types.NORMAL)
    for entry in added:
        i = int(entry["id"])
        tokens[i] = entry["content"]
        kinds[i] = int(types.CONTROL if entry["special"] else types.USER_DEFINED)
    return tokens, kinds


def _splitting(described: dict[str, Any]) -> str:
    """llama.cpp's name of the tokenizer's pre-tokenisation."""
    text = json.dumps(described.get("pre_tokenizer"))
    if r"\\p{N}{1,3}" in text:
        return "llama-bpe"
    if r"\\p{N}|" in text:
        return "qwen2"
    if "Regex" not in text:
        return "gpt-2"
    logger.warning(
        translate("llama.cpp may split text differently from this tokenizer: compare their tokens")
    )
    return "default"
