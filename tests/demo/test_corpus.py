from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.demo.base_model import as_typed, cut_batches, encode_document, train_tokenizer
from xtuner.demo.corpus import Document, all_strings, fill, load_documents, read_documents


@pytest.fixture(scope="module")
def small_tokenizer():
    return train_tokenizer(600)


def test_a_table_fills_the_patterns_below_it():
    """Every row fills every pattern; a name that opens a sentence gets a capital."""
    source = """# about places
columns: thing | place
pandas | the forest
the Sun | the sky

{thing} in {place}.

Q: Where? | {thing}?
A: In {place}. {thing}!
"""
    assert list(read_documents(source)) == [
        Document(text="Pandas in the forest."),
        Document(turns=((("Where?", "Pandas?"), "In the forest. Pandas!"),)),
        Document(text="The Sun in the sky."),
        Document(turns=((("Where?", "The Sun?"), "In the sky. The Sun!"),)),
    ]


def test_times_repeats_a_file():
    """`times: 2` counts the documents of a file twice."""
    assert list(read_documents("times: 2\n\nHello.\n")) == [Document(text="Hello.")] * 2


def test_a_dialogue_has_turns():
    """Questions and answers alternate in one dialogue."""
    (document,) = read_documents("Q: a | b\nA: c\nQ: d\nA: e\n")
    assert document == Document(turns=((("a", "b"), "c"), (("d",), "e")))


def test_fill_leaves_names_inside_a_sentence_small():
    """Only what opens a sentence is capitalised."""
    assert fill("A: we see {x}. {x} run", {"x": "cats"}) == "A: we see cats. Cats run"


def test_the_corpus_is_clean():
    """No text is empty, has edges of spaces or a slot left open, or ends without its mark."""
    documents = load_documents()
    for text in all_strings(documents):
        assert text
        assert text == text.strip()
        assert not set("{}|") & set(text), text
    for document in documents:
        for text in [document.text] * bool(document.text) + [answer for _, answer in document.turns]:
            assert text[-1] in "。！？.!?”\"'，" or text.endswith(("“", "”")), text


def test_no_document_is_written_twice():
    """Apart from `times`, a document is in the corpus once."""
    from xtuner.demo.corpus import FOLDER

    for path in FOLDER.glob("*.txt"):
        source = "\n".join(x for x in path.read_text("utf-8").splitlines() if not x.startswith("times:"))
        documents = list(read_documents(source))
        assert len(set(documents)) == len(documents), path.name


def test_nobody_asks_the_same_in_two_dialogues_of_one_turn():
    """One question has one answer, or the model could not learn it."""
    answers: dict[str, set[str]] = {}
    for document in load_documents():
        if len(document.turns) == 1:
            for question in document.turns[0][0]:
                answers.setdefault(question, set()).add(document.turns[0][1])
    assert {q: a for q, a in answers.items() if len(a) > 1} == {}


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_tokenizer_gives_every_text_back(small_tokenizer, text):
    """Decoding the ids of any text returns it, whatever the alphabet."""
    tokenizer = small_tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


class Plain(random.Random):
    """Takes the first way to ask and leaves it as it is written."""

    def random(self) -> float:
        return 0.99

    def choice(self, seq):
        return seq[0]


def test_a_dialogue_is_encoded_like_the_chat_template(small_tokenizer):
    """Training sees the ids that the tokenizer's own chat template makes, and an end after them."""
    document = Document(turns=((("Who are you?",), "A model."),))
    ids, weights = encode_document(document, small_tokenizer, Plain(), question_weight=0.5)
    chat = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]
    assert small_tokenizer.decode(ids) == small_tokenizer.apply_chat_template(chat, tokenize=False) + "</s>"
    answer = small_tokenizer("A model.<|im_end|>", add_special_tokens=False)["input_ids"]
    assert weights.count(1.0) == len(answer) + 1
    assert weights[0] == 0.0


def test_questions_come_as_people_type_them():
    """Some lose their last mark, some bring the enter key along, most stay."""
    rng = random.Random(0)
    typed = {as_typed("你是谁？", rng) for _ in range(200)}
    assert typed == {"你是谁？", "你是谁", "你是谁？\n", "你是谁\n"}


def test_batches_hold_as_many_neighbours_as_fit():
    """A batch's longest sample times its rows stays within the number of tokens."""
    samples = [([0] * n, [1.0] * n) for n in (2, 2, 3, 3, 9)]
    assert [[len(ids) for ids, _ in batch] for batch in cut_batches(samples, 6)] == [[2, 2], [3, 3], [9]]
