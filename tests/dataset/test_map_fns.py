"""From raw rows to conversations: equal to the reference rows, and clear about rows that do not fit."""

import json
from pathlib import Path

import pytest

from xtuner.dataset import map_fns
from xtuner.dataset.map_fns import (
    DATASET_FORMAT_MAPPING,
    alpaca_map_fn,
    msagent_react_map_fn,
    oasst1_map_fn,
    openai_map_fn,
    sharegpt_map_fn,
    template_map_fn_factory,
    wizardlm_map_fn,
)
from xtuner.dataset.map_fns.fields import is_trained
from xtuner.errors import ConfigError, DataError
from xtuner.utils import PROMPT_TEMPLATE

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "data" / "map_fn_cases.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["format"])
def test_the_conversation_is_that_of_the_reference(case):
    """Each known format gives the conversation that users' models were trained with."""
    before = json.dumps(case["row"])
    assert getattr(map_fns, case["map_fn"])(case["row"]) == case["expected"]
    assert DATASET_FORMAT_MAPPING[case["format"]] is getattr(map_fns, case["map_fn"])
    assert json.dumps(case["row"]) == before, "the row was changed"


def test_the_formats_are_listed_by_name():
    """`list-dataset-format` shows these."""
    assert " ".join(DATASET_FORMAT_MAPPING) == (
        "alpaca alpaca_zh arxiv code_alpaca colors crime_kg_assitan default law_reference llava "
        "llava_image_only medical msagent_react oasst1 openai openorca pretrain sql stack_exchange "
        "tiny_codes wizardlm sharegpt completion chosen_rejected auto"
    )


def test_a_missing_field_is_named_with_the_nearest():
    """An alpaca row with a misspelt field says which one is meant."""
    with pytest.raises(
        DataError, match="no field 'output'; its fields are 'instruction', 'input', 'outputs'"
    ):
        alpaca_map_fn({"instruction": "a", "input": "b", "outputs": "c"})
    with pytest.raises(DataError, match="Did you mean 'outputs'"):
        alpaca_map_fn({"instruction": "a", "input": "b", "outputs": "c"})


def test_null_is_empty_if_a_text_is_optional_and_an_error_if_not():
    """Arrow fills absent keys with null; the word None never gets into a prompt."""
    row = {"instruction": "a", "input": None, "output": "c"}
    assert alpaca_map_fn(row) == {"conversation": [{"input": "a\n", "output": "c"}]}
    with pytest.raises(DataError, match="'output' is null"):
        alpaca_map_fn({**row, "output": None})


def test_numbers_are_written_out_and_other_types_refused():
    """A table's number cells are texts; a list is not."""
    row = {"instruction": "1+1", "input": "", "output": 2}
    assert alpaca_map_fn(row)["conversation"][0]["output"] == "2"
    with pytest.raises(DataError, match="'output' is of type list"):
        alpaca_map_fn({**row, "output": ["2"]})


@pytest.mark.parametrize(
    ("loss", "trained"), [(None, True), (True, True), ("True", True), (False, False), ("false", False)]
)
def test_openai_loss_may_be_bool_text_or_absent(loss, trained):
    """An answer is supervised unless its message says no."""
    answer = {"role": "assistant", "content": "a"} | ({} if loss is None else {"loss": loss})
    messages = [{"role": "user", "content": "q"}, answer]
    assert openai_map_fn({"messages": messages}) == {
        "conversation": [{"system": "", "input": "q", "output": "a", "output_with_loss": trained}]
    }
    assert openai_map_fn({"messages": [{**m, "loss": m.get("loss")} for m in messages]})["conversation"]


def test_openai_tool_calls_and_results_become_text():
    """A call is part of the answer, its result part of the next input."""
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ]
    first, second = openai_map_fn({"messages": messages, "tools": '[{"name": "add"}]'})["conversation"]
    # What a chat template needs besides goes along.
    assert first.pop("tools") == [{"name": "add"}]
    assert first.pop("messages") == [messages[0], {**messages[1], "content": ""}]
    assert second.pop("messages") == messages[2:]
    assert [first, second] == [
        {
            "system": "",
            "input": "1+1?",
            "output": '{"name": "add", "arguments": {"a": 1}}',
            "output_with_loss": True,
        },
        {"system": "", "input": "2", "output": "Two.", "output_with_loss": True},
    ]


def test_unknown_speakers_are_refused():
    """A role that a format does not know is not dropped in silence."""
    with pytest.raises(DataError, match="role 'usr'; known roles are system"):
        openai_map_fn({"messages": [{"role": "usr", "content": "q"}]})
    with pytest.raises(DataError, match="from 'user'"):
        wizardlm_map_fn({"conversations": [{"from": "user", "value": "q"}]})


def test_oasst1_leaves_an_unanswered_question_out():
    """Only pairs are kept."""
    row = {"text": "### Human: a### Assistant: b### Human: c"}
    assert oasst1_map_fn(row) == {"conversation": [{"input": "a", "output": "b"}]}


def test_msagent_rows_may_be_text_and_are_never_run():
    """A dialogue written as a Python literal is read; code in it is not executed."""
    dialogue = [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]
    expected = {"conversation": [{"system": "", "input": "q\n", "output": "Final Answer:a\n"}]}
    assert msagent_react_map_fn({"conversations": str(dialogue)}) == expected
    assert msagent_react_map_fn({"conversations": "__import__('os').abort()"}) == {"conversation": []}
    broken = "<|startofthink|>{not json<|endofthink|>"
    dialogue[1]["value"] = broken
    assert msagent_react_map_fn({"conversations": dialogue}) == {"conversation": []}


def test_the_template_goes_around_each_turn():
    """System and instruction go to the input, the suffix to the output; the row is left as it was."""
    row = {"id": 7, "conversation": [{"system": "S", "input": "a", "output": "b"}, {"output": "d"}]}
    got = template_map_fn_factory(template=PROMPT_TEMPLATE.qwen_chat)(row)
    ends = {"need_eos_token": False, "sep": "\n"}
    assert got == {
        "id": 7,
        "conversation": [
            {
                "system": "S",
                "input": "<|im_start|>system\nS<|im_end|>\n"
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
                "output": "b<|im_end|>",
                **ends,
            },
            {
                "input": "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n",
                "output": "d<|im_end|>",
                **ends,
            },
        ],
    }
    assert row["conversation"][1] == {"output": "d"}


def test_a_template_may_be_given_by_name_or_dotted_path():
    """Written-back configs hold the path."""
    row = {"conversation": [{"input": "a", "output": "b"}]}
    by_name = template_map_fn_factory("default")(row)
    assert template_map_fn_factory("xtuner.utils.PROMPT_TEMPLATE.default")(row) == by_name
    with pytest.raises(ConfigError, match="Did you mean 'internlm2_chat'"):
        template_map_fn_factory("xtuner.utils.PROMPT_TEMPLATE.internlm2_chatt")
    with pytest.raises(ConfigError, match="a dict with INSTRUCTION"):
        template_map_fn_factory({"SYSTEM": "x"})


@pytest.fixture
def said(caplog):
    """All that is logged, as text."""
    caplog.set_level("INFO", logger="xtuner")
    return lambda: caplog.text


def ask(*messages, **row):
    """The turns that openai_map_fn makes of (role, content) pairs or messages."""
    given = [m if isinstance(m, dict) else {"role": m[0], "content": m[1]} for m in messages]
    return openai_map_fn({"messages": given, **row})["conversation"]


FLAGS = {
    False: [False, 0, 0.0, "false", "False", " no ", "0"],
    True: [None, True, 1, 1.0, "true", "yes", "1", float("nan")],
}


@pytest.mark.parametrize("name", ["loss", "weight", "train", "training", "output_with_loss", "loss_mask"])
def test_an_answer_is_supervised_unless_a_field_of_any_name_says_no(name, said):
    """OpenAI's weight, axolotl's train, ...: bools, numbers and texts; in messages and in conversations."""
    for wanted, values in FLAGS.items():
        for value in values:
            (turn,) = ask(("user", "q"), {"role": "assistant", "content": "a", name: value})
            assert turn["output_with_loss"] is wanted, value
            assert is_trained({"input": "q", "output": "a", name: value}) is wanted
    assert not is_trained({"masked": True})
    assert is_trained({"weight": 0.5})
    assert "every weight above 0 counts as 1" in said()
    with pytest.raises(DataError, match=f"the field '{name}' is 'maybe': write true or false"):
        is_trained({name: "maybe"})


def test_parts_of_an_answer_cannot_be_marked():
    """axolotl's train_detail is refused, not passed over."""
    with pytest.raises(DataError, match="'train_detail' marks parts of an answer"):
        ask(("user", "q"), {"role": "assistant", "content": "a", "train_detail": [{"begin_offset": 0}]})


def test_all_system_texts_are_kept():
    """Two messages, a field and a message, and the role developer."""
    rows = [
        ask(("system", "S"), ("developer", "T"), ("user", "q"), ("assistant", "a")),
        ask(("system", "T"), ("user", "q"), ("assistant", "a"), system="S"),
        sharegpt_map_fn(
            {
                "system": "S",
                "conversations": [
                    {"from": f, "value": v} for f, v in (("system", "T"), ("human", "q"), ("gpt", "a"))
                ],
            }
        )["conversation"],
    ]
    for (turn,) in rows:
        assert turn["system"] == "S\n\nT"
        assert [m["role"] for m in turn["messages"]] == ["system", "system", "user", "assistant"]


def test_messages_of_one_speaker_in_a_row_are_kept_apart():
    """A named template gets one text of both; the tokenizer's template gets them unchanged."""
    (turn,) = ask(("user", "A"), ("user", "B"), ("assistant", "C"), ("assistant", "D"))
    assert (turn["input"], turn["output"]) == ("A\n\nB", "C\n\nD")
    named = template_map_fn_factory("qwen_chat")({"conversation": [turn]})["conversation"]
    assert [(t["input"], t["output"]) for t in named] == [
        ("<|im_start|>user\nA\n\nB<|im_end|>\n<|im_start|>assistant\n", "C\n\nD<|im_end|>")
    ]
    (own,) = template_map_fn_factory("auto")({"conversation": [turn]})["conversation"]
    assert [m["content"] for m in own["messages"]] == ["A", "B", "C", "D"]
    assert wizardlm_map_fn(
        {"conversations": [{"from": f, "value": v} for f, v in (("human", "A"), ("gpt", "C"), ("gpt", "D"))]}
    ) == {"conversation": [{"input": "A", "output": "C\n\nD"}]}


def test_consecutive_answers_of_which_some_are_supervised_need_the_tokenizers_template():
    """A named template writes them as one answer, so it cannot tell them apart."""
    turns = ask(("user", "q"), {"role": "assistant", "content": "a", "loss": False}, ("assistant", "b"))
    with pytest.raises(DataError, match="only some of these are to be trained: set prompt_template"):
        template_map_fn_factory("qwen_chat")({"conversation": turns})
    (own,) = template_map_fn_factory("auto")({"conversation": turns})["conversation"]
    assert [m.get("loss") for m in own["messages"]] == [None, False, None]


def test_no_question_is_invented(said):
    """Answers that open a conversation reach the tokenizer's template only, which is logged."""
    (turn,) = ask(("system", "S"), ("assistant", "Hi!"), ("user", "q"), ("assistant", "a"), ("user", "r"))
    assert (turn["system"], turn["input"], turn["output"]) == ("S", "q", "a")
    assert [m["content"] for m in turn["messages"]] == ["S", "Hi!", "q", "a"]
    assert "conversations begin with words of the assistant" in said()
    assert "conversations end with an unanswered question" in said()


def test_a_message_with_more_than_role_and_content_has_one_form_only():
    """A name beside the content does not take the row away from the named template."""
    turns = ask({"role": "user", "content": "q", "name": "bob"}, ("assistant", "x"))
    (named,) = template_map_fn_factory("qwen_chat")({"conversation": turns})["conversation"]
    assert "messages" not in named
    (own,) = template_map_fn_factory("auto")({"conversation": turns})["conversation"]
    assert own["messages"][0]["name"] == "bob"


def test_thinking_reaches_a_named_template(said):
    """In the tags of thinking models; the tokenizer's template gets the field."""
    answer = {"role": "assistant", "content": "a", "reasoning_content": "r"}
    (turn,) = ask(("user", "q"), answer)
    assert turn["output"] == "<think>\nr\n</think>\n\na"
    assert turn["messages"][1] == answer
    assert "thinking is written as <think>" in said()


def test_the_older_form_of_one_call_is_read():
    """`function_call` and `functions`, from before tools."""
    call = {"name": "add", "arguments": "{}"}
    turns = ask(
        ("user", "q"),
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "add", "content": "2"},
        ("assistant", "a"),
        functions=[{"name": "add"}],
    )
    assert turns[0]["tools"] == [{"type": "function", "function": {"name": "add"}}]
    assert turns[0]["messages"][1]["tool_calls"] == [{"type": "function", "function": call}]
    assert turns[1]["messages"][0] == {"role": "tool", "name": "add", "content": "2"}


def test_a_number_that_is_infinite_is_no_text():
    """As JSON's 1e999 is read: its digits are lost."""
    with pytest.raises(DataError, match="the field 'output' is too large a number"):
        alpaca_map_fn({"instruction": "q", "input": "", "output": json.loads("1e999")})
