"""Dialogues of MOSS-003-SFT, with and without plugins.

    {"meta_instruction": "You are an AI assistant whose name is MOSS. ...",
     "chat": {"turn_1": {"Human": "<|Human|>: Hi<eoh>\\n",
                         "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\\n",
                         "Commands": "<|Commands|>: None<eoc>\\n",
                         "Tool Responses": "<|Results|>: None<eor>\\n",
                         "MOSS": "<|MOSS|>: Hello!<eom>\\n"}, ...}}

    supervised   all but the meta instruction and the results of tools;
                 their marks "<|Results|>:" and "<eor>\\n" are supervised

A sample has as many whole turns as fit into `max_length`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.conversations import Encoded, begin_ids, encode_conversations
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import PackedDataset
from xtuner.dataset.items.store import StoreWriter, open_or_write
from xtuner.dataset.map_fns.fields import missing_field, text
from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.json_files import open_json
from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger

Turns = list[dict[str, Any]]

_PARTS = ("Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS")
_OPENS, _CLOSES = "<|Results|>:", "<eor>"
_CHUNK_ROWS = 1024
NAMED_ROWS = 3


class MOSSSFTDataset(PackedDataset):
    """One conversation per item; `bot_name` replaces MOSS in every text."""

    def __init__(
        self,
        data_file: str | os.PathLike,
        tokenizer: Any,
        max_length: int = 2048,
        bot_name: str | None = None,
    ) -> None:
        path = Path(data_file)
        if not path.is_file():
            raise NotFoundError(
                translate(
                    "there is no data file {path} (looked for {full_path})",
                    path=path,
                    full_path=path.resolve(),
                )
            )
        rows = FileRows([open_json(path)])
        key = fingerprint.fingerprint_value(
            [
                "moss_sft",
                rows.fingerprint(),
                fingerprint.fingerprint_tokenizer(tokenizer),
                [max_length, bot_name],
                fingerprint.fingerprint_encoder(),
                Path(__file__).read_text("utf-8"),
            ]
        )
        store = open_or_write(key, lambda writer: _write(rows, tokenizer, max_length, bot_name, writer))
        stats = store.about["stats"]
        supervised = stats["trained"] / stats["tokens"]
        stats = {**stats, "packs": len(store), "trained_share": supervised, "fill": 1.0}
        logger.info(
            translate(
                "data: %s conversations; %s turns beyond max_length = %s left out; %s conversations "
                "dropped; %s tokens, %.1f%% supervised"
            ),
            *(stats["rows"], stats["left_out_turns"], max_length, stats["rows"] - stats["samples"]),
            *(stats["tokens"], 100 * supervised),
        )
        super().__init__(store, packing.plan_single(len(store)), stats, rows.place)


def _write(
    rows: FileRows, tokenizer: Any, max_length: int, bot_name: str | None, writer: StoreWriter
) -> dict[str, Any]:
    stats: dict[str, Any] = dict.fromkeys(("rows", "samples", "tokens", "trained", "left_out_turns"), 0)
    dropped: list[int] = []
    numbered: Iterator[tuple[int, Mapping[str, Any]]] = enumerate(rows)
    while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
        dialogues = []
        for number, row in chunk:
            try:
                dialogues.append(_turns(row, bot_name))
            except DataError as error:
                raise DataError(f"{rows.place(number)}: {error}") from None
        samples = _fitting(dialogues, tokenizer, max_length)
        numbers = np.array([number for number, _ in chunk])
        kept = [index for index, (_, _, turns) in enumerate(samples) if turns]
        dropped += numbers[[index for index, (_, _, turns) in enumerate(samples) if not turns]].tolist()
        encoded = _encoded([samples[index] for index in kept])
        writer.append(encoded, numbers[kept])
        stats["rows"] += len(chunk)
        stats["samples"] += len(kept)
        stats["tokens"] += len(encoded.ids)
        stats["trained"] += int(encoded.trained.sum())
        whole = sum(len(dialogue) - 1 for dialogue in dialogues)
        stats["left_out_turns"] += whole - sum(turns for _, _, turns in samples)
    rows.check_content()
    if not stats["samples"]:
        raise DataError(
            translate(
                "none of the {rows:,} conversations of {name} has a turn within {max_length} tokens",
                name=rows.name,
                max_length=max_length,
                rows=stats["rows"],
            )
        )
    reason = "no turn that fits into max_length"
    named = {reason: [rows.place(number) for number in dropped[:NAMED_ROWS]]} if dropped else {}
    counted = {reason: len(dropped)} if dropped else {}
    return {"stats": {**stats, "dropped": counted, "dropped_rows": named}}


def _turns(row: Mapping[str, Any], bot_name: str | None) -> list[Turns]:
    """The meta instruction and each turn of the chat, as pieces that are supervised or not."""

    def named(words: str) -> str:
        return words if bot_name is None else words.replace("MOSS", bot_name)

    chat = row.get("chat")
    if not isinstance(chat, Mapping):
        raise (
            missing_field("chat", row)
            if chat is None
            else DataError(translate("the field 'chat' is not an object of turns"))
        )
    dialogue = [[_piece(named(text(row, "meta_instruction")), trained=False)]]
    for name, turn in chat.items():
        if not isinstance(turn, Mapping) or not turn:
            raise DataError(
                translate(
                    "chat.{name} is not an object with {parts}: {turn!r:.80}",
                    name=name,
                    turn=turn,
                    parts=", ".join(_PARTS),
                )
            )
        pieces: Turns = []
        for part in turn:
            if part not in _PARTS:
                raise DataError(
                    translate(
                        "chat.{name} has {part!r}; a turn has {parts}",
                        name=name,
                        part=part,
                        parts=", ".join(_PARTS),
                    )
                )
            words = named(text(turn, part))
            pieces += _tool_pieces(words) if part == "Tool Responses" else [_piece(words, trained=True)]
        dialogue.append(pieces)
    return dialogue


def _tool_pieces(words: str) -> Turns:
    start = len(_OPENS) if words.startswith(_OPENS) else 0
    end = words.rfind(_CLOSES)
    end = len(words) if end < start else end
    marks = [(words[:start], True), (words[start:end], False), (words[end:], True)]
    return [_piece(part, trained) for part, trained in marks if part]


def _piece(words: str, trained: bool) -> dict[str, Any]:
    key, other = ("output", "input") if trained else ("input", "output")
    return {key: words, other: "", "need_eos_token": False}


def _fitting(
    dialogues: list[list[Turns]], tokenizer: Any, max_length: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Ids, loss mask and number of turns of each conversation, cut after the last turn that fits."""
    encoded = encode_conversations([part for dialogue in dialogues for part in dialogue], tokenizer)
    opening = len(begin_ids(tokenizer))
    samples = []
    first = 0
    for dialogue in dialogues:
        parts = [encoded.sample(first + number) for number in range(len(dialogue))]
        # Each part was encoded as a separate conversation; only the first keeps its opening ids.
        parts = [parts[0], *((ids[opening:], trained[opening:]) for ids, trained in parts[1:])]
        ends = np.cumsum([len(ids) for ids, _ in parts])
        fit = max(1, int(np.searchsorted(ends, max_length, side="right")))
        ids, trained = (np.concatenate(arrays) for arrays in zip(*parts[:fit], strict=True))
        samples.append((ids, trained, fit - 1))
        first += len(dialogue)
    return samples


def _encoded(samples: list[tuple[np.ndarray, np.ndarray, int]]) -> Encoded:
    lengths = np.array([len(ids) for ids, _, _ in samples], np.int64)
    ids = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _, _ in samples)])
    trained = np.concatenate([np.zeros(0, bool), *(trained for _, trained, _ in samples)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(len(samples), dtype=np.int64)
    return Encoded(ids, trained, offsets, rows, lengths, lengths)
