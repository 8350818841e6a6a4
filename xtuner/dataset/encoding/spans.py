"""Token ids of texts in which some spans of characters are trained.

    text     "<|im_start|>assistant\\nA<|im_end|>\\n", span of "A<|im_end|>"
    ids      3 520 201 | 36 4 | 201
    trained  .  .   .    x  x    .

A text is encoded as a whole, so the ids are those of the whole text. A token that reaches over the border of
a span is the one thing that cannot be: a model that answers a prompt never sees it. Such a text is cut at the
borders of its spans and the parts are encoded on their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xtuner.dataset.encoding.chat_template import Rendered

Ids = np.ndarray
Pieces = list[tuple[Ids, bool]]

NO_IDS = np.zeros(0, np.int32)
_FEW_SPANS = 64
"""Up to here a search through the tokens for each border takes less than a table of them all."""


def encode_spans(
    tokenizer: Any,
    texts: Sequence[Rendered],
    encode_texts: Callable[[Any, list[str]], list[Ids]],
    split: re.Pattern[str] | None = None,
    mark: Ids = NO_IDS,
) -> list[Pieces]:
    """For each text its ids in pieces, each trained or not; what `split` matches becomes `mark`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    results: list[Pieces | None] = [None] * len(texts)
    if backend is not None and backend.padding is None and backend.truncation is None:
        whole = [n for n, rendered in enumerate(texts) if split is None or not split.search(rendered.text)]
        encodings = backend.encode_batch([texts[n].text for n in whole], add_special_tokens=False)
        for number, encoding in zip(whole, encodings, strict=True):
            results[number] = _whole(encoding, texts[number])
    left = [number for number, pieces in enumerate(results) if pieces is None]
    parts = [_parts(texts[number], split) for number in left]
    words = list(dict.fromkeys(part for text in parts for part, _ in text if part is not None))
    ids = dict(zip(words, encode_texts(tokenizer, words), strict=True))
    for number, text in zip(left, parts, strict=True):
        results[number] = [(mark if part is None else ids[part], trained) for part, trained in text]
    return results  # type: ignore[return-value]


def _whole(encoding: Any, rendered: Rendered) -> Pieces | None:
    """The pieces of a text encoded as a whole; None where a token reaches over a border."""
    borders = [border for span in rendered.spans for border in span]
    find = _by_search if len(rendered.spans) <= _FEW_SPANS else _by_offsets
    places = find(encoding, borders, len(rendered.text))
    if places is None:
        return None
    ids = np.array(encoding.ids, np.int32)
    cuts = [0, *places, len(ids)]
    return [(ids[cuts[i] : cuts[i + 1]], i % 2 == 1) for i in range(len(cuts) - 1)]


def _by_search(encoding: Any, borders: Sequence[int], length: int) -> list[int] | None:
    """The number of the token that begins at each border; None where one has none."""
    places = []
    for border in borders:
        if border == length:
            places.append(len(encoding))
            continue
        token = encoding.char_to_token(border)
        # Tokenizers that leave white space out of the offsets give no token, or a gap before it.
        if token is None or encoding.token_to_chars(token)[0] != border:
            return _by_offsets(encoding, borders, length)
        if token and encoding.token_to_chars(token - 1)[1] != border:
            return _by_offsets(encoding, borders, length)
        places.append(token)
    return places


def _by_offsets(encoding: Any, borders: Sequence[int], length: int) -> list[int] | None:
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1]) if len(offsets) else offsets[:, 1]
    # A token belongs before a border if it ends there or earlier, with or without its white space.
    places = np.searchsorted(ends, borders, side="right")
    for place, border in zip(places.tolist(), borders, strict=True):
        reaches_over = place < len(offsets) and offsets[place, 0] < border
        gap = place and place < len(offsets) and ends[place - 1] < border
        if reaches_over or gap or (place == 0 and border and len(offsets)):
            return None
    return places.tolist()


def _parts(rendered: Rendered, split: re.Pattern[str] | None) -> list[tuple[str | None, bool]]:
    """The text cut at the borders of its spans; None stands for what `split` matches."""
    cuts = [0, *(border for span in rendered.spans for border in span), len(rendered.text)]
    parts: list[tuple[str | None, bool]] = []
    for number in range(len(cuts) - 1):
        words, trained = rendered.text[cuts[number] : cuts[number + 1]], number % 2 == 1
        for count, part in enumerate(split.split(words) if split else [words]):
            parts += [(None, False)] if count else []
            parts += [(part, trained)] if part else []
    return parts
