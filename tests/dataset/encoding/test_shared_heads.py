"""Texts that begin alike have the same ids whether their common head is encoded once or with each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from xtuner.dataset.encoding.shared_heads import encode_tails

DATA = Path(__file__).parents[2] / "data"
LONG = "a question of many words, 你好 " * 12
WORDS = st.lists(
    st.sampled_from(
        ["<|im_start|>", "<|im_end|>", "<s>", "</s>", " ", "\n", "user", "a b", "你", "<|im", "|>", "é"]
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module", params=["bos", "qwen"])
def backend(request):
    """A tokenizer in Rust with chatml marks, and one mark that takes the spaces before it."""
    found = AutoTokenizer.from_pretrained(DATA / f"tokenizer_{request.param}").backend_tokenizer
    marks = [AddedToken(mark, special=True, normalized=False) for mark in ("<|im_start|>", "<|im_end|>")]
    found.add_special_tokens([*marks, AddedToken("<s>", special=True, lstrip=True, normalized=False)])
    return found


def ids_of(backend, texts, limits):
    return [[*tail.head.tolist(), *tail.encoding.ids] for tail in encode_tails(backend, texts, limits)]


@settings(max_examples=300, deadline=None)
@given(head=WORDS, ends=st.lists(WORDS, min_size=2, max_size=4))
def test_the_ids_are_those_of_the_whole_text(backend, head, ends):
    """Wherever texts part: within a mark, a word, a space."""
    texts = [f"<|im_start|>{LONG}{head}{end}" for end in ends]
    wanted = [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]
    assert ids_of(backend, texts, [len(text) for text in texts]) == wanted


def test_what_texts_have_in_common_is_encoded_once(backend):
    """From their last common mark on, which is not behind the limit; other texts are encoded whole."""
    prompt = f"<|im_start|>user\n{LONG}<|im_end|>\n<|im_start|>assistant\n"
    at = prompt.rindex("<|im_start|>")
    texts = [f"{prompt}yes, of course", f"{prompt}no, never again", "short", f"{prompt}other"]
    tails = encode_tails(backend, texts, [len(prompt)] * 4)
    assert [tail.start for tail in tails] == [0, at, 0, 0]
    assert encode_tails(backend, texts[:2], [len(prompt), at - 1])[1].start == prompt.index("<|im_end|>")
    assert encode_tails(backend, texts[:2], [len(prompt), 3])[1].start == 0
