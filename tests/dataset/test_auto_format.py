"""The newer formats, and which format a row is found to be in."""

import json

import pytest

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import (
    DATASET_FORMAT_MAPPING,
    auto_map_fn,
    chosen_rejected_map_fn,
    completion_map_fn,
    sharegpt_map_fn,
    template_map_fn_factory,
)
from xtuner.dataset.map_fns.auto import find_format
from xtuner.errors import DataError

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
PLAIN = {"system": "", "input": "q", "output": "a", "output_with_loss": True}


def test_sharegpt_with_tools():
    """A call is an answer, an observation the next question; what a chat template needs goes along."""
    row = {
        "system": "S",
        "tools": '[{"name": "add"}]',
        "conversations": [
            {"from": "human", "value": "1+1?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Two."},
        ],
    }
    first, second = sharegpt_map_fn(row)["conversation"]
    assert (first["system"], first["input"], first["output"]) == (
        "S",
        "1+1?",
        '{"name": "add", "arguments": {"a": 1}}',
    )
    assert (second["input"], second["output"]) == ("2", "Two.")
    assert first["tools"] == [{"name": "add"}]
    assert [m["role"] for turn in (first, second) for m in turn["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]


def test_sharegpt_plain():
    """Two keys or the other two, and a name that is not known."""
    assert sharegpt_map_fn(
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    ) == {"conversation": [PLAIN]}
    assert sharegpt_map_fn({"conversations": [Q, A]}) == {"conversation": [PLAIN]}
    with pytest.raises(DataError, match=r"from 'humen'; known are .* Did you mean 'human'"):
        sharegpt_map_fn({"conversations": [{"from": "humen", "value": "q"}]})
    with pytest.raises(DataError, match="a function_call is not JSON"):
        sharegpt_map_fn({"conversations": [{"from": "function_call", "value": "add(1)"}]})


def test_a_completion_is_supervised_and_its_prompt_is_not():
    """As texts and as messages; an earlier answer inside the prompt is part of the prompt."""
    assert completion_map_fn({"prompt": "q", "completion": "a"}) == {
        "conversation": [{"input": "q", "output": "a"}]
    }
    found = completion_map_fn({"prompt": [Q, A, Q], "completion": [{**A, "content": "b"}]})["conversation"]
    assert [(turn["output"], turn["output_with_loss"]) for turn in found] == [("a", False), ("b", True)]


def test_of_two_answers_the_chosen_one_is_learnt():
    """As texts, as messages, and as whole dialogues."""
    for row in (
        {"prompt": "q", "chosen": "a", "rejected": "z"},
        {"question": "q", "chosen": "a", "rejected": "z"},
        {"prompt": [Q], "chosen": [A], "rejected": [A]},
        {"prompt": "q", "chosen": [A], "rejected": [A]},
        {"prompt": "q", "chosen": [Q, A], "rejected": [Q, A]},
    ):
        (turn,) = chosen_rejected_map_fn(row)["conversation"]
        assert (turn["input"], turn["output"], turn.get("output_with_loss", True)) == ("q", "a", True)
    with pytest.raises(DataError, match="no field 'prompt'"):
        chosen_rejected_map_fn({"chosen": "a", "rejected": "b"})


ROWS = {
    "conversation": {"conversation": [{"input": "q", "output": "a"}]},
    "openai": {"messages": [Q, A]},
    "chosen_rejected": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "sharegpt": {"id": 1, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "llava": {
        "image": "x.jpg",
        "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}],
    },
    "alpaca": {"instruction": "q", "input": None, "output": "a", "text": "### all"},
    "alpaca_zh": {"instruction_zh": "q", "input_zh": "", "output_zh": "a"},
    "completion": {"prompt": "q", "completion": "a"},
    "openorca": {"system_prompt": "S", "question": "q", "response": "a"},
    "sql": {"context": "CREATE TABLE t (a INT)", "question": "q", "answer": "a"},
    "arxiv": {"abstract": "q", "title": "a"},
    "colors": {"description": "q", "color": "a"},
    "default": {"input": "q", "output": "a"},
    "question and answer": {"question": "q", "answer": "a"},
    "query and response": {"query": "q", "response": "a"},
    "oasst1": {"text": "### Human: q### Assistant: a"},
    "pretrain": {"text": "words"},
}


@pytest.mark.parametrize("name", ROWS)
def test_the_format_is_told_by_the_fields(name):
    """Each kind of row is found, and mapped as its own function does."""
    assert find_format(ROWS[name]).name == name
    found = auto_map_fn(ROWS[name])["conversation"]
    assert found[0]["output"] in ("a", "words")
    if name in DATASET_FORMAT_MAPPING and name not in ("alpaca",):
        assert found == DATASET_FORMAT_MAPPING[name](ROWS[name])["conversation"]


def test_alpaca_with_a_history_and_a_system_text():
    """Earlier turns come first and carry the system text."""
    row = {"instruction": "q", "output": "a", "system": "S", "history": [["p", "b"]]}
    assert auto_map_fn(row) == {
        "conversation": [{"system": "S", "input": "p", "output": "b"}, {"input": "q\n", "output": "a"}]
    }


def test_a_format_that_is_not_known_is_answered_with_the_nearest():
    """The fields there are, the formats near them and what those lack."""
    with pytest.raises(DataError) as caught:
        auto_map_fn({"instruction": "q", "reply": "a", "output": None})
    assert "knows no format with the fields 'instruction', 'reply'." in str(caught.value)
    assert "alpaca (lacks 'output')" in str(caught.value)
    with pytest.raises(DataError, match=r"openai \(needs of messages with 'role'\)"):
        auto_map_fn({"messages": [{"speaker": "me"}]})


def test_the_format_of_a_data_set_is_logged_once(bos, caplog, tmp_path):
    """One line for each format, with the reason; rows of different forms may be mixed."""
    caplog.set_level("INFO", logger="xtuner")
    rows = [ROWS["alpaca"], ROWS["openai"], ROWS["alpaca"]]
    dataset = process_hf_dataset(
        json.loads(json.dumps(rows)),
        tokenizer=bos,
        max_length=64,
        dataset_map_fn="auto",
        template_map_fn=template_map_fn_factory("default"),
    )
    assert dataset.stats["samples"] == 3
    said = [record.getMessage() for record in caplog.records if "'auto'" in record.getMessage()]
    assert said == [
        "dataset_map_fn = 'auto': rows are in the format alpaca, as they have 'instruction', 'output'",
        "dataset_map_fn = 'auto': rows are in the format openai, as they have 'messages', "
        "of messages with 'role'",
    ]
