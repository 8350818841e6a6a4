"""Token ids and loss masks of texts in which some spans of characters are supervised.

    text     "<|im_start|>assistant\\nA<|im_end|>\\n", span of "A<|im_end|>"
    ids      3 520 201 | 36 4 | 201
    mask     .  .   .    x  x    .

A text is encoded as a whole. A token must not cross the boundary of a span, as a model that answers a prompt
never reads such a token: a text with one is cut at the boundaries of its spans and encoded in parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xtuner.dataset.encoding.chat_template import Rendered
from xtuner.dataset.encoding.shared_heads import Tail, encode_tails

Ids = np.ndarray
Pieces = list[tuple[Ids, bool]]

NO_IDS = np.zeros(0, np.int32)
_FEW_SPANS = 64
"""For at most so many spans, searching the token of each boundary is faster than an array of all offsets."""


def encode_spans(
    tokenizer: Any,
    texts: Sequence[Rendered],
    encode_texts: Callable[[Any, list[str]], list[Ids]],
    split: re.Pattern[str] | None = None,
    mark: Ids = NO_IDS,
) -> list[Pieces]:
    """The ids of each text in pieces, each supervised or not; matches of `split` become `mark`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    results: list[Pieces | None] = [None] * len(texts)
    if backend is not None and backend.padding is None and backend.truncation is None:
        whole = [n for n, rendered in enumerate(texts) if split is None or not split.search(rendered.text)]
        first_spans = [texts[n].spans[0][0] if texts[n].spans else len(texts[n].text) for n in whole]
        tails = encode_tails(backend, [texts[n].text for n in whole], first_spans)
        for number, tail in zip(whole, tails, strict=True):
            results[number] = _from_tail(tail, texts[number])
    left = [number for number, pieces in enumerate(results) if pieces is None]
    parts = [_parts(texts[number], split) for number in left]
    words = list(dict.fromkeys(part for text in parts for part, _ in text if part is not None))
    ids = dict(zip(words, encode_texts(tokenizer, words), strict=True))
    for number, text in zip(left, parts, strict=True):
        results[number] = [(mark if part is None else ids[part], trained) for part, trained in text]
    return results  # type: ignore[return-value]


def _from_tail(tail: Tail, rendered: Rendered) -> Pieces | None:
    """The pieces of a text of which the head was encoded with another."""
    start = tail.start
    if not start:
        return _whole(tail.encoding, rendered)
    spans = [(first - start, last - start) for first, last in rendered.spans]
    pieces = _whole(tail.encoding, Rendered(rendered.text[start:], spans))
    if pieces is None:
        return None
    (ids, trained), *others = pieces
    return [(np.concatenate([tail.head, ids]), trained), *others]


def _whole(encoding: Any, rendered: Rendered) -> Pieces | None:
    """The pieces of a text encoded as a whole; None if a token crosses a boundary."""
    boundaries = [boundary for span in rendered.spans for boundary in span]
    find = _by_search if len(rendered.spans) <= _FEW_SPANS else _by_offsets
    starts = find(encoding, boundaries, len(rendered.text))
    if starts is None:
        return None
    ids = np.array(encoding.ids, np.int32)
    cuts = [0, *starts, len(ids)]
    return [(ids[cuts[i] : cuts[i + 1]], i % 2 == 1) for i in range(len(cuts) - 1)]


def _by_search(encoding: Any, boundaries: Sequence[int], length: int) -> list[int] | None:
    """The number of the token that begins at each boundary; None if a boundary has none."""
    starts = []
    for boundary in boundaries:
        if boundary == length:
            starts.append(len(encoding))
            continue
        token = encoding.char_to_token(boundary)
        # If offsets exclude white space, there is no token at the boundary, or a gap before it.
        if token is None or encoding.token_to_chars(token)[0] != boundary:
            return _by_offsets(encoding, boundaries, length)
        if token and encoding.token_to_chars(token - 1)[1] != boundary:
            return _by_offsets(encoding, boundaries, length)
        starts.append(token)
    return starts


def _by_offsets(encoding: Any, boundaries: Sequence[int], length: int) -> list[int] | None:
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1]) if len(offsets) else offsets[:, 1]
    # A token is before a boundary if it ends there or earlier, with or without its white space.
    starts = np.searchsorted(ends, boundaries, side="right")
    for start, boundary in zip(starts.tolist(), boundaries, strict=True):
        crosses = start < len(offsets) and offsets[start, 0] < boundary
        has_gap = start and start < len(offsets) and ends[start - 1] < boundary
        if crosses or has_gap or (start == 0 and boundary and len(offsets)):
            return None
    return starts.tolist()


def _parts(rendered: Rendered, split: re.Pattern[str] | None) -> list[tuple[str | None, bool]]:
    """The text cut at the boundaries of its spans; None instead of each match of `split`."""
    cuts = [0, *(boundary for span in rendered.spans for boundary in span), len(rendered.text)]
    parts: list[tuple[str | None, bool]] = []
    for number in range(len(cuts) - 1):
        words, trained = rendered.text[cuts[number] : cuts[number + 1]], number % 2 == 1
        for count, part in enumerate(split.split(words) if split else [words]):
            parts += [(None, False)] if count else []
            parts += [(part, trained)] if part else []
    return parts
