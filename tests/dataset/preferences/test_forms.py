"""Rows with compared answers, in all the forms in which data sets have them."""

from __future__ import annotations

import pytest

from xtuner.dataset.map_fns.auto_preferences import auto_preference_map_fn
from xtuner.dataset.preference_dataset import (
    build_preference_dataset,
    intel_orca_dpo_map_fn,
    orpo_dpo_mix_40k_map_fn,
    ultrafeedback_map_fn,
)
from xtuner.dataset.preferences.answers import read_compared
from xtuner.errors import DataError

USER = {"role": "user", "content": "Q"}
GOOD, BAD = ({"role": "assistant", "content": words} for words in ("A", "B"))
PAIR = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
SYSTEM = {"role": "system", "content": "S"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
TOOL = {"role": "tool", "content": "T"}


def said(messages):
    return [(m["role"], m["content"]) for m in messages]


def compared(row):
    found = read_compared(auto_preference_map_fn(row))
    return said(found.prompt), [said(answer) for answer in found.answers], found.scores


Q, A, B = ("user", "Q"), ("assistant", "A"), ("assistant", "B")
PAIRS = {
    "texts": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "other names": {"question": "Q", "chosen": "A", "rejected": "B"},
    "answers as messages": {"prompt": "Q", "chosen": [GOOD], "rejected": [BAD]},
    "one message each": {"prompt": "Q", "chosen": GOOD, "rejected": BAD},
    "all as messages": PAIR,
    "prompt inside": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt inside and apart": {"prompt": "Q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "messages by from and value": {
        "conversations": [{"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "A"},
        "rejected": {"from": "gpt", "value": "B"},
    },
    "transcripts": {
        "chosen": "\n\nHuman: Q\n\nAssistant: A",
        "rejected": "\n\nHuman: Q\n\nAssistant: B",
    },
    "several rejected": {"prompt": "Q", "chosen": "A", "rejected": ["B"]},
    "ranked, the best first": {"prompt": "Q", "responses": ["A", "B"]},
    "ranks beside": {"prompt": "Q", "answers": ["B", "A"], "ranks": [2, 1]},
    "ranks inside": {"prompt": "Q", "answers": [{"answer": "B", "rank": 2}, {"answer": "A", "rank": 1}]},
    "ratings beside": {"instruction": "Q", "generations": ["A", "B"], "ratings": [4.5, 2]},
    "labels beside": {"prompt": "Q", "completions": ["A", "B"], "labels": [True, False]},
    "rated inside": {
        "instruction": "Q",
        "completions": [{"response": "A", "overall_score": 8.5}, {"response": "B", "overall_score": 2}],
    },
}


@pytest.mark.parametrize("form", PAIRS)
def test_auto_reads_every_form_of_a_pair(form):
    """The prompt, and the better answer above the worse one."""
    prompt, answers, scores = compared(PAIRS[form])
    assert prompt == [Q]
    ranked = [answer for _, answer in sorted(zip(scores, answers, strict=True), reverse=True)]
    assert ranked == [[A], [B]]


LABELLED = {
    "texts": {"prompt": "Q", "completion": "A", "label": True},
    "a tag": {"instruction": "Q", "output": "A", "kto_tag": "true"},
    "a dialogue": {"messages": [USER, GOOD], "label": 1},
    "a list of one": {"prompt": "Q", "completions": ["A"], "labels": ["good"]},
}


@pytest.mark.parametrize("form", LABELLED)
def test_auto_reads_every_form_of_a_labelled_answer(form):
    assert compared(LABELLED[form]) == ([Q], [[A]], [1.0])


def test_what_comes_before_the_question_is_kept():
    """System texts, earlier turns, the input of an instruction, tools."""
    row = {"system": "S", "history": [["E", "F"]], "instruction": "Q", "input": "I", "tools": '[{"a": 1}]'}
    found = read_compared(auto_preference_map_fn({**row, "chosen": "A", "rejected": "B"}))
    assert said(found.prompt) == [("system", "S"), ("user", "E"), ("assistant", "F"), ("user", "Q\nI")]
    assert found.tools == [{"a": 1}]
    inside = {"prompt": [SYSTEM, USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}
    assert compared(inside) == ([("system", "S"), Q], [[A], [B]], [1.0, 0.0])


def test_dialogues_part_at_the_first_message_that_differs():
    """What they have in common is the prompt; all that follows is the answer, also calls of tools."""
    chosen = [USER, CALL, TOOL, GOOD]
    prompt, answers, _ = compared({"chosen": chosen, "rejected": [USER, BAD]})
    assert (prompt, answers) == ([Q], [[("assistant", ""), ("tool", "T"), A], [B]])
    prompt, answers, _ = compared({"chosen": chosen, "rejected": [*chosen[:3], BAD]})
    assert (prompt[1:], answers) == ([("assistant", ""), ("tool", "T")], [[A], [B]])
    apart = {"prompt": [USER], "chosen": [GOOD, USER, GOOD], "rejected": [BAD, USER, BAD]}
    assert compared(apart) == ([Q], [[A, Q, A], [B, Q, B]], [1.0, 0.0])
    with pytest.raises(DataError, match="chosen has no answer to the messages that chosen and rejected have"):
        compared({"chosen": [USER, GOOD], "rejected": [{**USER, "content": "R"}, BAD]})


def test_map_functions_of_known_data_sets():
    """Those that configs name."""
    intel = {"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}
    assert said(intel_orca_dpo_map_fn(intel)["prompt"]) == [("system", "S"), Q]
    mixed = orpo_dpo_mix_40k_map_fn({"chosen": [USER, GOOD], "rejected": [USER, BAD]})
    assert mixed == PAIR
    completions = [
        {"response": "A", "overall_score": 10, "fine-grained_score": 1.5},
        {"response": "B", "overall_score": 7, "fine-grained_score": 4},
        {"response": "C", "overall_score": None},
    ]
    found = read_compared(ultrafeedback_map_fn({"instruction": "Q", "completions": completions}))
    assert ([said(answer) for answer in found.answers], found.scores) == ([[A], [B]], [1.5, 4.0])


FAULTS = {
    "rejected": ({"prompt": "Q", "chosen": "A"}, "the row has no field 'rejected'; its fields are 'prompt'"),
    "prompt": ({"chosen": "A", "rejected": "B"}, "the row has no field 'prompt'"),
    "null": ({"prompt": "Q", "chosen": None, "rejected": "B"}, "the row has no field 'chosen'"),
    "role": (
        {"prompt": "Q", "chosen": [USER, GOOD, USER], "rejected": [USER, BAD]},
        "chosen ends with a message of 'user': an answer ends with one of 'assistant'",
    ),
    "label": (
        {"prompt": "Q", "completion": "A", "label": 0.5},
        "the label of an answer is 0.5: write true for a good one, false",
    ),
    "score": (
        {"prompt": "Q", "answers": ["A", "B"], "scores": [1, "N/A"]},
        "the score of an answer is 'N/A'; it must be a number",
    ),
    "count": (
        {"prompt": "Q", "answers": ["A", "B"], "scores": [1]},
        "the row has 2 answers and 1 value in 'scores'",
    ),
    "none inside": (
        {"prompt": "Q", "answers": [{"answer": "A", "rank": 1}, {"answer": "B"}]},
        "answer 1 has no 'rank', which other answers of the row have",
    ),
    "unknown": (
        {"text": "A"},
        "dataset_map_fn = 'auto' knows no form of compared answers with the fields 'text': rows need "
        "'chosen' and 'rejected', or a list of 'answers' with 'scores', or 'completion' and 'label'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_at_fault_is_one_clear_line(fault):
    row, message = FAULTS[fault]
    with pytest.raises(DataError) as raised:
        compared(row)
    assert str(raised.value).startswith(message)


def test_auto_makes_the_samples_of_rows_in_form(tokenizer, samples_of):
    """Whatever the form, the same tokens."""
    wanted = samples_of(build_preference_dataset([PAIR], tokenizer, 64))
    assert wanted == [
        [
            ("[user]Q<|im_end|>[assistant]A<|im_end|>", "A<|im_end|>"),
            ("[user]Q<|im_end|>[assistant]B<|im_end|>", "B<|im_end|>"),
        ]
    ]
    for row in PAIRS.values():
        assert samples_of(build_preference_dataset([row], tokenizer, 64, "auto")) == wanted
