from __future__ import annotations

from xtuner.demo.corpus import load_documents
from xtuner.demo.politeness import CHINESE, ENGLISH, QUESTIONS, is_polite, make_pairs


def texts(rows, side):
    return [row[side][0]["content"] for row in rows]


def test_two_hundred_pairs_prefer_the_polite_answer():
    """200 pairs with 200 facts and 50 held-out ones with other facts, half of them English."""
    train, held_out = make_pairs()
    assert (len(train), len(held_out)) == (200, 50)
    for rows in (train, held_out):
        assert sum(text.isascii() for text in texts(rows, "prompt")) == len(rows) // 2
        assert all(map(is_polite, texts(rows, "chosen")))
        assert not any(map(is_polite, texts(rows, "rejected")))
    assert len({*texts(train, "prompt"), *texts(held_out, "prompt")}) == 250
    assert make_pairs() == (train, held_out)


def test_held_out_pairs_have_rude_words_of_their_own():
    """No rude answer of training begins or ends as those that it is measured on."""
    train, held_out = make_pairs()
    words = [way.replace("{}", "").strip() for m in (CHINESE, ENGLISH) for way in m.rude_held_out]
    assert not any(word in text for word in words for text in texts(train, "rejected"))
    assert all(any(word in text for word in words) for text in texts(held_out, "rejected"))


def test_what_the_demo_asks_is_in_no_pair():
    """Questions and answers of the demo are new to the training, and the base knows them."""
    known = {q: d.turns[0][1] for d in load_documents() if d.turns for q in d.turns[0][0]}
    assert set(QUESTIONS) <= known.keys()
    rows = [row for part in make_pairs() for row in part]
    for question in QUESTIONS:
        assert question not in texts(rows, "prompt")
        assert not any(known[question] in text for text in texts(rows, "chosen"))
