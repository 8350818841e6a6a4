"""Ids as text: many tokens of an image are one word."""

from __future__ import annotations

import copy

from xtuner.dataset.encoding.decoding import decode


def test_many_tokens_of_an_image_in_short(tokenizer):
    """Ids below zero, eight or more behind the vocabulary or of one added token; words are not shortened."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<PATCH>"]})
    patch = tokenizer.convert_tokens_to_ids("<PATCH>")
    words = tokenizer.encode("aaaaaaaaaaaaaaaaaaaaaaaa b", add_special_tokens=False)
    assert decode(tokenizer, [1, *[-200] * 3, *words, -200]) == f"<s><image*3>{'a' * 24} b<image>"
    assert decode(tokenizer, [1, *range(-5, -2), *words]) == f"<s><image*3>{'a' * 24} b"
    assert decode(tokenizer, [*[patch] * 8, *words, *[patch] * 7]) == f"<PATCH*8>{'a' * 24} b{'<PATCH>' * 7}"
    assert decode(tokenizer, [1, *[patch + 1] * 8, patch]) == "<s><image*8><PATCH>"
    assert decode(tokenizer, []) == ""
