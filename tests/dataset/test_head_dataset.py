"""Rows for classification, embeddings and scores of steps: which tokens, with which labels, in items."""

from __future__ import annotations

import copy
import itertools
import logging

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from xtuner.dataset.collate_fns.head_collate_fns import (
    classification_collate_fn,
    embedding_collate_fn,
    stepwise_collate_fn,
)
from xtuner.dataset.concat_dataset import ConcatDataset
from xtuner.dataset.head_dataset import (
    build_classification_dataset,
    build_embedding_dataset,
    build_stepwise_dataset,
)
from xtuner.dataset.map_fns.heads import embedding_map_fn, stepwise_map_fn
from xtuner.errors import ConfigError, DataError

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LABELS = ["bad", "good"]
ASKED = [{"role": "user", "content": "Q"}]
SAID = [*ASKED, {"role": "assistant", "content": "A"}]


@pytest.fixture(scope="module")
def marking(tokenizer):
    """A tokenizer that puts marks around each text, as Llama's and embedding models' do."""
    found = copy.deepcopy(tokenizer)
    found.chat_template = TEMPLATE
    pieces = [("<s>", found.bos_token_id), ("</s>", found.eos_token_id)]
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=pieces
    )
    return found


def texts_of(dataset, tokenizer):
    """The text of each sample of each item."""
    found = []
    for item in map(dataset.__getitem__, range(len(dataset))):
        spans = itertools.pairwise(item["cumulative_len"])
        found.append([tokenizer.decode(item["input_ids"][a:b]) for a, b in spans])
    return found


def test_a_text_has_the_tokens_of_the_tokenizer(marking):
    """Marks included; a long one is cut before the mark that ends it; a conversation has the template's."""
    rows = [
        {"text": "hello world", "label": "good"},
        {"sentence": "x" * 90, "category": 0},
        {"messages": SAID, "labels": ["bad"]},
    ]
    dataset = build_classification_dataset(rows, marking, 12, LABELS)
    ids = [dataset[n]["input_ids"].tolist() for n in range(3)]
    assert ids[0] == marking("hello world")["input_ids"]
    whole = marking("x" * 90)["input_ids"]
    assert ids[1] == [*whole[:11], whole[-1]]
    assert texts_of(dataset, marking)[2] == [marking.decode(ids[2])]
    assert marking.decode(ids[2])[:7] == "[user]Q"
    assert dataset.stats["cut"] == 2
    assert [dataset[n]["sample_labels"].tolist() for n in range(3)] == [[1], [0], [0]]
    batch = classification_collate_fn([dataset[0], dataset[2]])["data"]
    assert (batch["sample_labels"].tolist(), batch["label_names"]) == ([1, 0], LABELS)


LABELS_OF = {
    "by name": ("good", 1),
    "by number": (1, 1),
    "by a whole number of a table": (0.0, 0),
    "true": (True, 1),
    "name with spaces": (" bad ", 0),
}


@pytest.mark.parametrize("value", LABELS_OF)
def test_a_label_is_a_name_or_its_number(marking, value):
    given, wanted = LABELS_OF[value]
    dataset = build_classification_dataset([{"text": "a", "label": given}], marking, 12, LABELS)
    assert dataset[0]["sample_labels"].tolist() == [wanted]


def test_names_that_are_numbers_are_names(marking):
    """Stars from 1 to 5: 0 is none of them, 1 is the first."""
    dataset = build_classification_dataset([{"text": "a", "label": 1}], marking, 12, [1, 2, 3, 4, 5])
    assert dataset[0]["sample_labels"].tolist() == [0]
    with pytest.raises(DataError, match=r"the label 0 is none of: 1, 2, 3, 4, 5"):
        build_classification_dataset([{"text": "a", "label": 0}], marking, 12, [1, 2, 3, 4, 5])


FAULTS = {
    "no label": ({"text": "a"}, r"the row has no field 'label'; its fields are 'text'"),
    "unknown": ({"text": "a", "label": "goood"}, r"the label 'goood' is none of: bad, good. .*'good'"),
    "empty": ({"text": "  ", "label": "bad"}, r"text is empty: it must hold a text"),
    "no text": ({"label": "bad"}, r"the row has no field 'text'"),
    "two labels": ({"text": "a", "label": ["bad", "good"]}, r"is none of: bad, good"),
    "half a character": ({"text": "a\ud800", "label": "bad"}, r"text has half of a character at position 1"),
    "empty dialogue": (
        {"messages": [{"role": "user", "content": ""}], "label": "bad"},
        r"messages is empty: it must hold a text",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_row_with_a_fault_is_left_out_and_named(marking, caplog, name):
    """With its position; `strict` makes it an error."""
    row, message = FAULTS[name]
    rows = [{"text": "a", "label": "bad"}] * 40 + [row]
    with caplog.at_level(logging.WARNING, "xtuner"):
        dataset = build_classification_dataset(rows, marking, 12, LABELS)
    assert len(dataset) == 40
    (line,) = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    with pytest.raises(DataError, match=rf"row 40 \(counted from 0\): .*{message}") as raised:
        build_classification_dataset(rows, marking, 12, LABELS, strict=True)
    assert str(raised.value).rstrip(".") in line


def test_rare_labels_are_named(marking, caplog):
    rows = [{"text": f"t{n}", "label": "bad"} for n in range(3)] + [{"text": "b", "label": "good"}]
    with caplog.at_level(logging.INFO, "xtuner"):
        build_classification_dataset(rows, marking, 12, [*LABELS, "odd"])
    said = [record.getMessage() for record in caplog.records]
    assert "data: samples of each label: bad 3, good 1, odd 0" in said
    assert "data: only one sample has the label good: it will hardly be learnt" in said
    assert "data: no sample has the label odd: it cannot be learnt" in said


def test_several_labels_and_numbers(marking):
    """Lists or objects of names, empty ones too; numbers without names."""
    rows = [{"text": "a", "labels": found} for found in (["bad"], [], {"bad": True, "good": True})]
    kind = "multi_label_classification"
    dataset = build_classification_dataset(rows, marking, 12, LABELS, kind, use_varlen_attn=True)
    labels = classification_collate_fn([dataset[0]])["data"]["sample_labels"].tolist()
    assert sorted(labels) == [[0, 0], [1, 0], [1, 1]]
    rows = [{"text": "a", "score": 1.5}, {"text": "b", "label": "-2"}]
    dataset = build_classification_dataset(rows, marking, 12, problem_type="regression")
    assert [dataset[n]["sample_labels"].tolist() for n in range(2)] == [[1.5], [-2.0]]
    with pytest.raises(DataError, match="the label 'many' is not a number"):
        build_classification_dataset([{"text": "a", "label": "many"}], marking, 12, problem_type="regression")


WRONG = {
    "unknown type": ({"problem_type": "multi_label"}, r"problem_type is 'multi_label'; use one of single"),
    "one name": ({"labels": ["a"]}, r"labels is \['a'\]: give the names of the classes, at least 2, each on"),
    "no names": ({}, "labels is None: give the names"),
    "twice": ({"labels": ["a", "a", "b"]}, "each once"),
    "names of numbers": ({"labels": LABELS, "problem_type": "regression"}, "'regression' has no classes"),
    "short packs": (
        {"labels": LABELS, "use_varlen_attn": True, "max_packed_length": 8},
        "max_packed_length is 8, less than max_length = 12: raise it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_named(marking, name):
    settings, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        build_classification_dataset([{"text": "a", "label": "a"}], marking, 12, **settings)


GROUPS = {
    "usual": {"anchor": "Q", "positive": "P", "negative": "N"},
    "of query and document": {"query": "Q", "document": "P", "hard_negatives": ["N"]},
    "of lists": {"query": "Q", "pos": ["P"], "neg": ["N"]},
    "of passages": {
        "query": "Q",
        "positive_passages": [{"docid": "1", "title": "", "text": "P"}],
        "negative_passages": [{"text": "N"}],
    },
    "numbered": {"question": "Q", "answer": "P", "negative_1": "N"},
    "of inference": {"premise": "Q", "entailment": "P", "contradiction": "N"},
}


@pytest.mark.parametrize("name", GROUPS)
def test_usual_names_of_texts_that_belong_together(name):
    assert embedding_map_fn(GROUPS[name]) == {
        "anchor": "Q",
        "positive": ["P"] if isinstance(embedding_map_fn(GROUPS[name])["positive"], list) else "P",
        "negatives": ["N"],
    }


def test_a_group_is_never_parted(marking):
    """An anchor, a positive, its negatives; one group for each positive; keys are those of texts."""
    rows = [
        {"query": "q1", "pos": ["a", "b"], "neg": ["c"]},
        {"query": "q2", "pos": "a"},
        {"query": ASKED, "pos": [SAID]},
    ]
    dataset = build_embedding_dataset(rows, marking, 24, use_varlen_attn=True, max_packed_length=24)
    groups = []
    for texts, item in zip(texts_of(dataset, marking), map(dataset.__getitem__, range(9)), strict=False):
        sizes = item["group_sizes"]
        ends = np.cumsum([0, *sizes])
        groups += [texts[a:b] for a, b in itertools.pairwise(ends)]
    wanted = [["q1", "a", "c"], ["q1", "b", "c"], ["q2", "a"]]
    marked = [[f"<s>{text}</s>" for text in group] for group in wanted]
    of_messages = ["[user]Q<|im_end|>", "[user]Q<|im_end|>[assistant]A<|im_end|>"]
    assert sorted(groups) == sorted([*marked, of_messages])
    plain = build_embedding_dataset(rows[:2], marking, 24)
    data = embedding_collate_fn([plain[n] for n in range(3)])["data"]
    assert data["group_sizes"] == [3, 3, 2]
    q1, a, c, again, b, c2, q2, a2 = data["text_keys"].tolist()
    assert (q1, c, a) == (again, c2, a2)
    assert len({q1, a, b, c, q2}) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a"}, "the row has no field 'positive'; its fields are 'query'"),
        ({"query": "a", "pos": []}, "the row has no positive text"),
        ({"query": "a", "pos": "a"}, "anchor and positive of the row are equal"),
        ({"query": "a", "pos": "b", "neg": ["b"]}, "a negative of the row is its positive"),
        ({"query": " ", "pos": "b"}, "anchor is empty"),
        ({"sentence1": "a", "sentence2": "b", "score": 1}, "the row is a pair of sentences with a"),
    ],
)
def test_rows_that_are_no_groups_are_named(marking, row, message):
    with pytest.raises(DataError, match=message):
        build_embedding_dataset([row], marking, 24)


STEPS = {"prompt": "2+2+1?", "completions": ["2+2=4.", "4+1=6."], "labels": [True, False]}
STEPS_OF = {
    "of TRL": STEPS,
    "of words": {"question": "2+2+1?", "steps": STEPS["completions"], "labels": ["+", "-"]},
    "of ratings": {"problem": "2+2+1?", "steps": STEPS["completions"], "ratings": [0, -1]},
    "inside": {
        "prompt": "2+2+1?",
        "steps": [{"text": "2+2=4.", "rating": 1}, {"text": "4+1=6.", "rating": -1}],
    },
}


@pytest.mark.parametrize("name", STEPS_OF)
def test_usual_names_of_steps(name):
    assert stepwise_map_fn(STEPS_OF[name]) == STEPS


def test_rows_of_math_shepherd():
    row = {
        "input": "2+2+1? Step 1: 2+2=4. ки\nStep 2: 4+1=6. ки",
        "label": "2+2+1? Step 1: 2+2=4. +\nStep 2: 4+1=6. -",
    }
    assert stepwise_map_fn(row) == {
        "prompt": "2+2+1?",
        "completions": ["Step 1: 2+2=4.", "Step 2: 4+1=6."],
        "labels": [True, False],
    }
    with pytest.raises(DataError, match=r"'label' is not the text of 'input' with \+ or -"):
        stepwise_map_fn({**row, "label": "other"})


@pytest.mark.parametrize("separator", ["\n", ""])
def test_a_step_is_labelled_at_its_last_token(marking, separator):
    """Of the separator if there is one; steps that do not fit are left out, with their labels."""
    asked = {**STEPS, "prompt": ASKED}
    dataset = build_stepwise_dataset([STEPS, asked], marking, 64, separator)
    first, second = dataset[0], dataset[1]
    pieces = ["2+2+1?", *(step + separator for step in STEPS["completions"])]
    lengths = [len(marking(piece, add_special_tokens=False)["input_ids"]) for piece in pieces]
    ends = np.cumsum([1 + lengths[0], *lengths[1:]]) - 1
    wanted = np.full(ends[-1] + 1, -100)
    wanted[ends[1:]] = [1, 0]
    assert first["labels"].tolist() == wanted.tolist()
    assert marking.decode(first["input_ids"]) == "<s>" + "".join(pieces)
    assert marking.decode(second["input_ids"]).startswith("[user]Q<|im_end|>[assistant]2+2=4.")
    data = stepwise_collate_fn([first, second])["data"]
    assert (data["num_steps"], data["loss_targets"].tolist()) == (4, [1, 0, 1, 0])
    cut = build_stepwise_dataset([STEPS, STEPS], marking, int(ends[1]) + 2, separator)
    assert cut[1]["labels"].tolist() == wanted[: ends[1] + 1].tolist()
    assert cut.stats["cut"] == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**STEPS, "labels": [True]}, "the row has 2 steps and 1 label: each step needs one"),
        ({**STEPS, "labels": [True, "perhaps"]}, "the label of a step is 'perhaps': write true"),
        ({**STEPS, "completions": ["a", " "]}, "step 2 of the row is ' '; it must be text"),
        ({"prompt": "a", "completions": ["b"]}, "the row has no field 'labels'"),
        ({"prompt": "a", "completions": [], "labels": []}, "the row has no steps"),
        ({"prompt": "", "completions": ["b"], "labels": [1]}, "prompt is empty"),
        ({"prompt": "a", "completions": "b", "labels": [1]}, "'completions' is of type str; it must be a li"),
    ],
)
def test_rows_whose_steps_are_wrong_are_named(marking, row, message):
    with pytest.raises(DataError, match=message):
        build_stepwise_dataset([row], marking, 64)


def test_a_prompt_that_fills_max_length_is_counted(marking, caplog):
    rows = [STEPS, {**STEPS, "prompt": "long " * 40}]
    with caplog.at_level(logging.INFO, "xtuner"):
        assert len(build_stepwise_dataset(rows, marking, 60)) == 1
    said = [record.getMessage() for record in caplog.records]
    assert any("1 dropped: 1 with a prompt that alone fills max_length (row 1" in line for line in said)
    assert "data: 1 right step, 1 wrong one" in said


def test_data_sets_that_are_packed_together_keep_what_their_samples_have(marking):
    """Labels of texts, sizes of groups, labels of steps, in the order of the samples."""
    texts = [{"text": "hello", "label": "good"}], [{"text": "a", "label": "bad"}]
    together = ConcatDataset(
        [build_classification_dataset(r, marking, 64, LABELS) for r in texts], max_length=128
    )
    batch = classification_collate_fn([together[0]])["data"]
    wanted = {"hello": 1, "a": 0}
    (found,) = texts_of(together, marking)
    assert batch["sample_labels"].tolist() == [
        next(label for word, label in wanted.items() if word in text) for text in found
    ]
    assert (len(found), batch["label_names"]) == (2, LABELS)
    groups = [{"anchor": "a", "positive": "b"}], [{"anchor": "c", "positive": "d", "negatives": ["e"]}]
    together = ConcatDataset([build_embedding_dataset(r, marking, 64) for r in groups], max_length=256)
    assert sorted(embedding_collate_fn([together[0]])["data"]["group_sizes"]) == [2, 3]
    steps = (
        [{"prompt": "p", "completions": ["s"], "labels": [True]}],
        [{"prompt": "q", "completions": ["t", "u"], "labels": [False, False]}],
    )
    together = ConcatDataset([build_stepwise_dataset(r, marking, 64) for r in steps], max_length=128)
    data = stepwise_collate_fn([together[0]])["data"]
    assert (data["num_steps"], sorted(data["loss_targets"].tolist())) == (3, [0, 0, 1])


def test_data_sets_with_other_labels_are_not_mixed(marking):
    """In a pack, and in a batch: the numbers of one would be read as names of the other."""
    rows = [{"text": "hello", "label": "good"}]
    parts = [build_classification_dataset(rows, marking, 64, names) for names in (LABELS, LABELS[::-1])]
    message = r"labels \['bad', 'good'\] and \['good', 'bad'\]: give all data sets the same"
    with pytest.raises(ConfigError, match=message):
        classification_collate_fn([part[0] for part in parts])
    with pytest.raises(ConfigError, match="give all data sets the same labels"):
        ConcatDataset(parts, max_length=128)[0]
