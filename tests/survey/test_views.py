"""What a row and an item look like from stage to stage."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.errors import DataError
from xtuner.survey.views import Segment, decode, segments_of, view_failing_row, view_row

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}


def test_every_stage_of_a_row(data_of):
    """Row, conversation, templated conversation, and the trained part of the text."""
    (origin,) = data_of([ALPACA], map_fn="alpaca_map_fn").origins
    view = view_row(origin, 0)
    question = "<|im_start|>user\nAdd.\n1 2<|im_end|>\n<|im_start|>assistant\n"
    assert view.row == ALPACA
    assert [(t["input"], t["output"]) for t in view.mapped] == [("Add.\n1 2", "3")]
    assert [(t["input"], t["output"]) for t in view.templated] == [(question, "3<|im_end|>")]
    assert [(s.text, s.trained) for s in view.segments] == [
        (f"<s>{question}", False),
        ("3<|im_end|>", True),
        ("\n", False),
    ]
    assert [s.num_tokens for s in view.segments] == [len(view.input_ids) - 3, 2, 1]
    trained = [i for i, label in zip(view.input_ids, view.labels, strict=True) if label != -100]
    assert trained == view.input_ids[-3:-1]
    assert view.error is None


def test_a_stage_that_fails_leaves_those_before(data_of):
    """The template needs a text where there is a list."""
    good = {"conversation": [{"input": "a", "output": "b"}]}
    bad = {"conversation": [{"input": ["a"], "output": "b"}]}
    (origin,) = data_of([good, bad]).origins
    view = view_failing_row(origin)
    assert view.place.endswith("rows0.jsonl line 2 (row 1)")
    assert view.mapped == bad["conversation"]
    assert view.templated is None
    assert view.error == ("template_map_fn: the field 'input' is of type list; it must be text: ['a']")


def test_what_is_cut_off_is_counted_and_a_document_loses_nothing(data_of):
    long = "word " * 40
    (origin,) = data_of([{"conversation": [{"input": "q", "output": long}]}], max_length=32).origins
    view = view_row(origin, 0)
    assert len(view.input_ids) == 32
    (whole,) = data_of([{"conversation": [{"input": "q", "output": long}]}], max_length=None).origins
    assert view.num_cut_tokens == len(view_row(whole, 0).input_ids) - 32
    (document,) = data_of([{"text": long}], map_fn="pretrain_map_fn", template=None, max_length=32).origins
    assert view_row(document, 0).num_cut_tokens == 0


def test_an_item_shows_its_samples_and_their_rows(survey_of):
    rows = [{"conversation": [{"input": f"q{i}", "output": "a"}]} for i in range(3)]
    item = survey_of(rows).item
    places = sorted(place.split()[-1] for place in item.places)
    assert places == ["0)", "1)", "2)"]
    assert "".join(s.text for segments in item.samples for s in segments).count("<s>") == 3
    with pytest.raises(DataError, match="there is no item 5: the data has 1, counted from 0"):
        survey_of(rows, index=5)


@given(st.lists(st.tuples(st.text("ab 你\n", min_size=1, max_size=6), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_segments_are_the_whole_text(tokenizer, parts):
    """Text that is encoded apart comes back piece by piece, nothing lost between the pieces."""
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text, _ in parts]
    ids = np.concatenate(pieces)
    trained = np.repeat([flag for _, flag in parts], [len(piece) for piece in pieces])
    segments = segments_of(tokenizer, ids, trained)
    assert "".join(s.text for s in segments) == "".join(text for text, _ in parts)
    assert sum(s.num_tokens for s in segments) == len(ids)
    assert all(a.trained != b.trained for a, b in itertools.pairwise(segments))


def test_a_first_word_keeps_its_space():
    """SentencePiece drops a space that opens a text, but here it stands in the middle."""

    class Pieces:
        def decode(self, ids, **kwargs):
            return "".join(" a"[i] for i in ids).removeprefix(" ")

    segments = segments_of(Pieces(), np.array([1, 0, 1]), np.array([False, True, True]))
    assert segments == [Segment("a", False, 1), Segment(" a", True, 2)]


def test_an_image_is_shown_by_its_mark(tokenizer):
    (letter,) = tokenizer.encode("a", add_special_tokens=False)
    assert decode(tokenizer, [letter, -200, letter]) == "a<image>a"
