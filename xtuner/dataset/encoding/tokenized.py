"""Rows that are tokenised already, by an offline preparation.

    {"input_ids": [1, 7, 8, 2], "labels": [-100, -100, 8, 2], "cumulative_len": [0, 4]}

`cumulative_len` has the boundaries of the samples in a packed row; without it a row is one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xtuner.dataset.encoding.conversations import Encoded
from xtuner.dataset.encoding.pipeline import Writer
from xtuner.dataset.map_fns.fields import missing_field
from xtuner.dataset.reading.selection import Selection
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.utils import IGNORE_INDEX


def write_tokenized(rows: Selection, writer: Writer) -> dict[str, Any]:
    """Write all rows to the store; returns the counts."""
    num_rows = num_tokens = num_supervised = num_samples = 0
    for number, row in rows:
        try:
            encoded = _read_row(row)
        except DataError as error:
            raise DataError(f"{rows.place(number)}: {error}") from None
        writer.append(encoded, np.array([number]))
        num_rows += 1
        num_samples += len(encoded.rows)
        num_tokens += len(encoded.ids)
        num_supervised += int(encoded.trained.sum())
    rows.check_content()
    if not num_supervised:
        raise DataError(
            translate(
                "the tokenised data has {rows} rows and no supervised token: nothing to learn from",
                rows=num_rows,
            )
        )
    return {
        "stats": {"rows": num_rows, "samples": num_samples, "tokens": num_tokens, "trained": num_supervised}
    }


def _read_row(row: Mapping[str, Any]) -> Encoded:
    for name in ("input_ids", "labels"):
        if name not in row:
            raise missing_field(name, row)
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    mask = labels != IGNORE_INDEX
    if ids.ndim != 1 or ids.shape != labels.shape or not np.array_equal(ids[mask], labels[mask]):
        raise DataError(
            translate(
                "input_ids and labels must have equal lengths, and a label must be its token's id or "
                "{IGNORE_INDEX}",
                IGNORE_INDEX=IGNORE_INDEX,
            )
        )
    boundaries = row.get("cumulative_len")
    offsets = np.array([0, len(ids)] if boundaries is None else boundaries, np.int64)
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
        raise DataError(
            translate(
                "cumulative_len must rise from 0 to {count}; it is {offsets!r:.80}",
                count=len(ids),
                offsets=offsets.tolist(),
            )
        )
    zeros = np.zeros(len(offsets) - 1, np.int64)
    return Encoded(ids.astype(np.int32), mask, offsets, zeros, zeros, zeros)
