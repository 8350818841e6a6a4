"""From conversations to ids: equal to the reference to the last id, and nothing lost on the way."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.dataset.encoding.conversations import (
    InvalidRowError,
    begin_ids,
    encode_conversations,
    encode_texts,
    labels_of,
)
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.errors import ModelError
from xtuner.utils import PROMPT_TEMPLATE

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "encode_cases.jsonl").read_text("utf-8").splitlines()
]
FEW = settings(max_examples=25, deadline=None)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TURN = st.fixed_dictionaries(
    {"input": TEXT, "output": TEXT},
    optional={
        "sep": st.sampled_from(["\n", "", None]),
        "need_eos_token": st.sampled_from([True, False, None]),
        "output_with_loss": st.sampled_from([True, False, None]),
    },
)
CONVERSATIONS = st.lists(st.lists(TURN, min_size=1, max_size=3), min_size=1, max_size=5)


def rendered(case):
    if case["template"] is None:
        return case["conversation"]
    return template_map_fn_factory(case["template"])({"conversation": case["conversation"]})["conversation"]


def one_by_one(turns, tokenizer):
    """A plain reference of the rules: ids and loss mask of one conversation, piece by piece."""
    ids, trained = [], []

    def add(more, train):
        ids.extend(more)
        trained.extend([train] * len(more))

    opens = True
    for turn in turns:
        if opens and tokenizer.bos_token_id is not None:
            add([tokenizer.bos_token_id], False)
        with_loss = turn.get("output_with_loss") in (True, None)
        add(tokenizer.encode(turn["input"], add_special_tokens=False), False)
        add(tokenizer.encode(turn["output"], add_special_tokens=False), with_loss)
        opens = turn.get("need_eos_token") in (True, None)
        if opens:
            add([tokenizer.eos_token_id], with_loss)
        add(tokenizer.encode(turn.get("sep") or "", add_special_tokens=False), False)
    return ids, trained


@pytest.mark.parametrize("name", ["bos", "qwen"])
def test_ids_and_labels_are_those_of_the_reference(tokenizers, name):
    """All cases of one tokenizer and length, encoded in one batch, equal the reference to the last id."""
    for max_length in (4096, 40):
        cases = [c for c in CASES if c["tokenizer"] == name and c["max_length"] == max_length]
        encoded = encode_conversations([rendered(c) for c in cases], tokenizers[name], max_length)
        for number, case in enumerate(cases):
            ids, trained = encoded.sample(number)
            assert ids.tolist() == case["input_ids"]
            assert labels_of(ids, trained, -100).tolist() == case["labels"]


@FEW
@given(CONVERSATIONS, st.sampled_from(["bos", "qwen"]))
def test_a_batch_equals_its_rows_encoded_piece_by_piece(tokenizers, conversations, name):
    """Batching and joining pieces changes no id and no flag."""
    encoded = encode_conversations(conversations, tokenizers[name])
    for number, turns in enumerate(conversations):
        ids, trained = encoded.sample(number)
        assert (ids.tolist(), trained.tolist()) == one_by_one(turns, tokenizers[name])


@FEW
@given(CONVERSATIONS, st.integers(1, 30))
def test_a_cut_keeps_the_first_tokens(tokenizers, conversations, max_length):
    """A cut sample is the beginning of the whole one, and the whole one's sizes stay known."""
    whole = encode_conversations(conversations, tokenizers["bos"])
    cut = encode_conversations(conversations, tokenizers["bos"], max_length)
    assert cut.rows.tolist() == list(range(len(conversations)))
    assert cut.full_lengths.tolist() == np.diff(whole.offsets).tolist()
    assert cut.full_trained.tolist() == whole.trained_counts().tolist()
    for number in range(len(conversations)):
        for part, full in zip(cut.sample(number), whole.sample(number), strict=True):
            assert part.tolist() == full[:max_length].tolist()


@FEW
@given(st.lists(TEXT.filter(bool), min_size=1, max_size=4), st.integers(1, 9))
def test_documents_go_on_in_the_next_sample(tokenizers, texts, max_length):
    """Each begins with the last token of the one before, so that all that was trained has a predecessor."""
    documents = [[{"input": "", "output": text, "need_eos_token": False}] for text in texts]
    whole = encode_conversations(documents, tokenizers["bos"])
    parts = encode_conversations(documents, tokenizers["bos"], max_length, continue_documents=True)
    step = max(1, max_length - 1)
    wanted = []
    for row in range(len(texts)):
        ids, trained = (part.tolist() for part in whole.sample(row))
        starts = range(0, max(1, len(ids) - max_length + step), step)
        wanted += [
            (row, ids[at : at + max_length], [at == 0 and trained[0], *trained[at + 1 : at + max_length]])
            for at in starts
        ]
    got = [
        (int(row), *(part.tolist() for part in parts.sample(number))) for number, row in enumerate(parts.rows)
    ]
    assert got == wanted
    if max_length > 1:
        assert parts.trained_counts().sum() == whole.trained_counts().sum()


def test_a_text_that_comes_again_is_encoded_once(bos, monkeypatch):
    """The tokenizer sees each different text one time in a chunk of rows."""
    seen = []

    def record(tokenizer, texts):
        seen.append(texts)
        return encode_texts(tokenizer, texts)

    monkeypatch.setattr("xtuner.dataset.encoding.conversations.encode_texts", record)
    encode_conversations([[{"input": "q", "output": "a", "sep": "\n"}]] * 3, bos)
    assert seen == [["q", "a", "\n"]]


def test_padding_left_on_in_the_tokenizer_does_no_harm(tokenizers):
    """A tokenizer that was used with padding and truncation before gives the same ids."""
    texts = ["a", "a longer text", ""]
    expected = [tokenizers["qwen"].encode(text, add_special_tokens=False) for text in texts]
    tokenizers["qwen"](["a b", "c"], padding=True, truncation=True, max_length=2)
    assert [ids.tolist() for ids in encode_texts(tokenizers["qwen"], texts)] == expected


def test_images_stand_between_the_texts(bos):
    """The placeholder of an image becomes the image id, without a further token."""
    turn = {"input": "a<image>b", "output": "c", "need_eos_token": False}
    ids = encode_conversations([[turn]], bos, with_image_token=True).ids.tolist()
    one = [bos.encode(text, add_special_tokens=False) for text in "abc"]
    assert ids == [bos.bos_token_id, *one[0], -200, *one[1], *one[2]]


def test_without_outputs_all_before_the_last_answer_is_encoded(bos):
    """For prompting a model: earlier turns whole, bos and the last question, nothing supervised."""
    turns = [{"input": "q", "output": "a"}]
    encoded = encode_conversations([turns], bos, input_ids_with_output=False)
    assert encoded.ids.tolist() == [bos.bos_token_id, *bos.encode("q", add_special_tokens=False)]
    assert not encoded.trained.any()
    turns = [{"input": "q", "output": "a", "output_with_loss": False}, {"input": "r", "output": "b"}]
    encoded = encode_conversations([turns], bos, input_ids_with_output=False)
    q, a, r = (bos.encode(text, add_special_tokens=False) for text in "qar")
    first = [bos.bos_token_id, *q, *a, bos.eos_token_id]
    assert encoded.ids.tolist() == [*first, bos.bos_token_id, *r]
    assert not encoded.trained.any()


def test_no_conversations_give_no_samples(bos):
    """An empty chunk is no special case."""
    encoded = encode_conversations([], bos, 5)
    assert (len(encoded.ids), encoded.offsets.tolist(), len(encoded.rows)) == (0, [0], 0)


def test_a_wrong_type_or_half_a_character_names_the_row(bos):
    """What cannot be text is found, with its row in the chunk."""
    good = [{"input": "q", "output": "a"}]
    with pytest.raises(InvalidRowError, match="'output' is of type list") as caught:
        encode_conversations([good, [{"input": "q", "output": ["a"]}]], bos)
    assert caught.value.row == 1
    with pytest.raises(InvalidRowError, match="output has half of a character at position 1") as caught:
        encode_conversations([good, [{"input": "q", "output": "a\ud800"}]], bos)
    assert caught.value.row == 1


class Qwen2TokenizerLike:
    bos_token_id, eos_token_id = 7, None


class ChatGlmLike:
    def get_prefix_tokens(self):
        return [64790, 64792]


class Glm4Like:
    bos_token_id = None

    def get_added_vocab(self):
        return {"<sop>": 12, "[gMASK]": 11, "<|user|>": 13}


class PlainLike:
    bos_token_id, eos_token_id = 7, None


def test_how_a_conversation_opens_depends_on_the_tokenizer():
    """Qwen's open with nothing, GLM's with two marks, others with bos if they have one."""
    assert begin_ids(Qwen2TokenizerLike()).tolist() == []
    assert begin_ids(ChatGlmLike()).tolist() == [64790, 64792]
    assert begin_ids(PlainLike()).tolist() == [7]
    assert begin_ids(Glm4Like()).tolist() == [11, 12]


def test_a_tokenizer_without_end_of_sequence_is_refused_when_one_is_needed():
    """The cure is in the message."""
    with pytest.raises(ModelError, match=r"eos_token='<\|im_end\|>'"):
        encode_conversations([[{"input": "q", "output": "a"}]], PlainLike())


@pytest.mark.parametrize("name", [name for name in PROMPT_TEMPLATE if name != "auto"])
def test_every_template_trains_the_end_of_every_answer_and_nothing_of_a_prompt(bos, name):
    """With any template, exactly the answers with their ends are supervised."""
    template = PROMPT_TEMPLATE[name]
    turns = [{"system": "S", "input": "q1", "output": "a1"}, {"input": "q2", "output": "a2"}]
    conversation = template_map_fn_factory(template)({"conversation": turns})["conversation"]
    ids, trained = encode_conversations([conversation], bos).sample(0)
    end = [] if template.get("SUFFIX_AS_EOS") else [bos.eos_token_id]
    answers = [
        bos.encode(turn["output"] + template.get("SUFFIX", ""), add_special_tokens=False) + end
        for turn in turns
    ]
    assert ids[trained].tolist() == answers[0] + answers[1]
    assert (ids[0], (ids == bos.bos_token_id).sum()) == (bos.bos_token_id, 2 if end else 1)
