"""Streaming yields whole characters and no part of a stop word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.generation.text_stream import TextStream


def bytes_as_text(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def run(data, stop_words=()):
    """The pieces for the bytes of `data`, one byte a token, and the stream."""
    stream = TextStream(bytes_as_text, stop_words)
    pieces = []
    for byte in data:
        pieces.append(stream.push(byte))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_pieces_make_the_text_and_are_whole(text):
    """The pieces join to any text, and none contains half a character."""
    pieces, stream = run(text.encode("utf-8", errors="ignore"))
    assert "".join(pieces) == text.encode("utf-8", errors="ignore").decode()
    assert not stream.stopped
    assert all(piece in text for piece in pieces)


@settings(max_examples=100, deadline=None)
@given(st.text("ab<>e", max_size=20), st.lists(st.text("ab<>e", min_size=1, max_size=4), max_size=3))
def test_stop_words_across_tokens(text, words):
    """The text ends before the first stop word, for any split into tokens."""
    pieces, stream = run(text.encode(), words)
    # The word that is complete first wins, as it would for a reader of the stream.
    ends = [text.find(w) + len(w) for w in words if w in text]
    seen = text[: min(ends)] if ends else text
    starts = [seen.find(w) for w in words if w in seen]
    assert "".join(pieces) == (text[: min(starts)] if starts else text)
    assert stream.stopped == bool(starts)


def test_a_possible_stop_word_waits():
    """Text that may be the start of a stop word is shown once it cannot be one."""
    stream = TextStream(bytes_as_text, ["<eoa>"])
    assert [stream.push(b) for b in b"hi<eob"] == ["h", "i", "", "", "", "<eob"]


def test_invalid_bytes_do_not_block():
    """Invalid bytes become replacement characters after a few tokens; later text is shown."""
    pieces, _ = run(b"\xe4" * 20 + b"ok")
    assert "".join(pieces).endswith("ok")
    assert sum(bool(p) for p in pieces) >= 3


def test_cost_of_a_token_does_not_grow():
    """A step decodes a few tokens, not the whole answer."""
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return bytes_as_text(ids)

    stream = TextStream(decode, ["never"])
    for byte in ("你好 hello " * 50).encode():
        stream.push(byte)
    assert longest <= 8


def test_spaces_between_words_survive(tokenizer):
    """With a real tokenizer the pieces join to the text of all tokens."""
    text = "def add(a, b):\n    return a + b\n你是谁？ 🙂 today"
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer.decode)
    assert "".join([*(stream.push(i) for i in ids), stream.finish()]) == text


@pytest.mark.parametrize("word", ["", None])
def test_an_empty_stop_word_stops_nothing(word):
    """Empty words are left out."""
    pieces, stream = run(b"text", [word])
    assert "".join(pieces) == "text"
    assert not stream.stopped
