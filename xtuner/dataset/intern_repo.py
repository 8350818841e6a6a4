"""Data of InternLM's trainer: folders of tokens or of messages, packed.

    a.bin      {"tokens": [-1, -45, 12, 7, 2]}      a negative id is not supervised, nor is 0
    a.json     [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    data_order.txt   a.bin                          the files to read, in order; without it all, sorted

A sample longer than a pack is split into several samples; no token is lost.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.conversations import Encoded
from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import PackedDataset, Samples
from xtuner.dataset.items.store import StoreWriter, open_or_write
from xtuner.dataset.items.summary import item_stats
from xtuner.dataset.map_fns import openai_map_fn
from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.json_files import JsonLinesFile
from xtuner.dataset.reading.selection import Selection
from xtuner.errors import ConfigError, DataError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger

_CHUNK_ROWS = 1024


def load_intern_repo_tokenized_dataset(
    folder: str | os.PathLike,
    min_length: int = 0,
    data_order_path: str | os.PathLike | None = None,
    file_type: str = ".bin",
) -> PackedDataset:
    """The samples of all files of tokens, one per item, without those shorter than `min_length`."""
    rows = Selection([FileRows([JsonLinesFile(path) for path in _files(folder, data_order_path, file_type)])])
    key = fingerprint.fingerprint_value(
        [
            "intern_repo",
            fingerprint.fingerprint_rows(rows.sources[0]),
            min_length,
            fingerprint.fingerprint_encoder(),
            Path(__file__).read_text("utf-8"),
        ]
    )
    store = open_or_write(key, lambda writer: _write_tokens(rows, min_length, writer))
    stats = store.about["stats"]
    if stats["rows"] > stats["samples"]:
        num_short = stats["rows"] - stats["samples"]
        logger.info(
            translate("data: %s of %s samples have less than min_length = %s tokens"),
            num_short,
            stats["rows"],
            min_length,
        )
    plan = packing.plan_single(len(store))
    return PackedDataset(store, plan, item_stats(stats, len(plan), None), rows.place)


def load_intern_repo_untokenized_dataset(
    processed_dataset_dict_path: str | os.PathLike | None = None,
    folder: str | os.PathLike | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    template_map_fn: Callable[[Any], Any] | None = None,
    data_order_path: str | os.PathLike | None = None,
    file_type: str = ".json",
) -> PackedDataset:
    """The conversations of all files of messages, one per item, tokenised with `template_map_fn`."""
    if processed_dataset_dict_path is not None:
        raise ConfigError(
            translate(
                "processed_dataset_dict_path is not used any more: tokens are cached by the content of "
                "their files; give folder='...' alone"
            )
        )
    if folder is None:
        raise ConfigError(translate("load_intern_repo_untokenized_dataset needs folder='...'"))
    files = [_MessagesFile(path) for path in _files(folder, data_order_path, file_type)]
    dataset = process_hf_dataset(
        FileRows(files),
        tokenizer=tokenizer,
        max_length=max_length,
        dataset_map_fn=openai_map_fn,
        template_map_fn=template_map_fn,
        pack_to_max_length=False,
        remove_unused_columns=True,
    )
    assert isinstance(dataset, PackedDataset)
    return dataset


def build_packed_dataset(dataset_cfg: Any, packed_length: int = 8192, seed: int = 1024) -> PackedDataset:
    """The samples of `dataset_cfg`, one of the two data sets above, in packs of `packed_length` tokens."""
    if not isinstance(dataset_cfg, PackedDataset):
        raise ConfigError(
            translate(
                "build_packed_dataset packs the data of load_intern_repo_tokenized_dataset or "
                "load_intern_repo_untokenized_dataset; it got {kind}",
                kind=type(dataset_cfg).__name__,
            )
        )
    store = WindowedStore(dataset_cfg.store, packed_length)
    plan = packing.plan_packs(store.lengths, packed_length, seed)
    stats = {**dataset_cfg.stats, "tokens": int(store.lengths.sum())}
    return PackedDataset(store, plan, item_stats(stats, len(plan), packed_length), dataset_cfg.place)


class WindowedStore:
    """The samples of a store, those longer than `size` tokens split into several.

    Each begins with the last token of the one before, unsupervised: the first token of a sample is never a
    target, so all tokens are learnt.
    """

    def __init__(self, store: Samples, size: int) -> None:
        lengths = store.lengths
        self._store = store
        self._size, self._step = size, max(1, size - 1)
        windows = 1 + np.maximum(0, -(-(lengths - size) // self._step))
        self._samples = np.repeat(np.arange(len(lengths)), windows)
        self._windows = np.arange(len(self._samples)) - np.repeat(np.cumsum(windows) - windows, windows)
        self.lengths = np.minimum(size, lengths[self._samples] - self._windows * self._step)
        self.rows = store.rows[self._samples]
        self.content_hash = f"{store.content_hash} in windows of {size}"

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and loss mask of one window."""
        start = int(self._windows[index]) * self._step
        ids, mask = (part[start : start + self._size] for part in self._store.sample(self._samples[index]))
        if start:
            mask = np.concatenate([[False], mask[1:]])
        return ids, mask


class _MessagesFile(JsonLinesFile):
    """One list of messages per line, as a row `{"messages": [...]}`."""

    def _row(self, value: Any, line: int) -> dict[str, Any]:
        return super()._row({"messages": value} if isinstance(value, list) else value, line)


def _files(
    folder: str | os.PathLike, data_order_path: str | os.PathLike | None, file_type: str
) -> list[Path]:
    root = Path(folder)
    if not root.is_dir():
        raise NotFoundError(
            translate(
                "there is no data folder {root} (looked for {full_path})", root=root, full_path=root.resolve()
            )
        )
    if data_order_path is None:
        files = sorted(path for path in root.rglob(f"*{file_type}") if path.is_file())
        if not files:
            raise NotFoundError(
                translate(
                    "the folder {root} holds no files that end with {file_type!r}",
                    root=root,
                    file_type=file_type,
                )
            )
        return files
    order = Path(data_order_path)
    if not order.is_file():
        raise NotFoundError(translate("there is no file data_order_path = {order}", order=order))
    names = [line.strip() for line in order.read_text("utf-8-sig").split("\n") if line.strip()]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise NotFoundError(
            translate("{order} names {name}, which is not in {root}", order=order, root=root, name=missing[0])
        )
    if not names:
        raise DataError(translate("{order} names no file", order=order))
    return [root / name for name in names]


def _write_tokens(rows: Selection, min_length: int, writer: StoreWriter) -> dict[str, Any]:
    stats = dict.fromkeys(("rows", "samples", "tokens", "trained"), 0)
    numbered = iter(rows)
    while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
        samples = [(number, _tokens(row, number, rows)) for number, row in chunk]
        kept = [(number, tokens) for number, tokens in samples if len(tokens) >= min_length]
        tokens = np.concatenate([np.zeros(0, np.int64), *(tokens for _, tokens in kept)])
        lengths = np.array([len(tokens) for _, tokens in kept], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        encoded = Encoded(
            np.abs(tokens).astype(np.int32), tokens > 0, offsets, np.arange(len(kept)), lengths, lengths
        )
        writer.append(encoded, np.array([number for number, _ in kept], np.int64))
        stats["rows"] += len(chunk)
        stats["samples"] += len(kept)
        stats["tokens"] += len(tokens)
        stats["trained"] += int(encoded.trained.sum())
    rows.check_content()
    if not stats["trained"]:
        raise DataError(
            translate(
                "the tokenised data has {rows:,} rows and no supervised token in those of min_length = "
                "{min_length} and more: nothing to learn from",
                min_length=min_length,
                rows=stats["rows"],
            )
        )
    return {"stats": {**stats, "dropped": {}, "dropped_rows": {}}}


def _tokens(row: Mapping[str, Any], number: int, rows: Selection) -> np.ndarray:
    tokens = np.asarray(row.get("tokens", ()))
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind != "i":
        raise DataError(
            translate(
                "{place}: a row must be {{'tokens': [...]}} with at least one id", place=rows.place(number)
            )
        )
    return tokens
