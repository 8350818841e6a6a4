"""Prompts are what chat makes of all before the last answer."""

import pytest

from xtuner.chat.session import make_session
from xtuner.dataset.encoding.asked import asked_of
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.dataset.prompt_dataset import build_prompt_dataset
from xtuner.errors import ConfigError, DataError
from xtuner.utils import PROMPT_TEMPLATE

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
]
ANSWER = {"role": "assistant", "content": "e"}


@pytest.mark.parametrize("template", ["qwen_chat", "internlm_chat", "default"])
def test_the_prompt_is_that_of_chat(bos, template):
    """And the words that end an answer are those of the template."""
    rows = [{"question": "who are you", "answer": "me", "level": 3}]
    data = build_prompt_dataset(rows, bos, 64, template_map_fn=template_map_fn_factory(template))
    prompt = data.prompt(0)
    assert prompt.ids == make_session(bos, PROMPT_TEMPLATE[template], "", "BOT").ask("who are you", 8)
    assert (prompt.asked.shown, prompt.asked.reference, dict(prompt.row)) == ("who are you", "me", rows[0])
    assert data.stop_words == list(PROMPT_TEMPLATE[template].get("STOP_WORDS") or [])


def test_earlier_answers_are_in_the_prompt(bos):
    """With or without an answer at the end, which alone is the reference."""
    rows = [{"messages": [*TALK, ANSWER]}, {"messages": TALK}]
    data = build_prompt_dataset(rows, bos, 64, template_map_fn=template_map_fn_factory("qwen_chat"))
    first, second = data.prompt(0), data.prompt(1)
    assert first.ids == second.ids
    assert (first.asked.reference, second.asked.reference) == ("e", None)
    assert [m["content"] for m in first.asked.messages] == ["Be brief.", "a b", "c", "d"]
    assert first.asked.messages == second.asked.messages


def test_rows_of_a_map_function_and_rows_held_out(bos):
    """As for supervised fine-tuning; both parts have all rows between them."""
    rows = [{"instruction": f"q {n}", "input": "", "output": f"a {n}"} for n in range(10)]
    parts = [
        build_prompt_dataset(rows, bos, 64, alpaca_map_fn, held_out=0.2, take_held_out=take)
        for take in (False, True)
    ]
    assert [len(part) for part in parts] == [8, 2]
    shown = [part.prompt(n).asked.reference for part in parts for n in range(len(part))]
    assert sorted(shown) == sorted(row["output"] for row in rows)


def test_long_prompts_are_left_out_and_counted(bos, caplog):
    """Never cut: the end of a prompt is what asks for an answer."""
    rows = [{"prompt": "a"}, {"prompt": "a " * 50}]
    data = build_prompt_dataset(rows, bos, 20)
    assert len(data) == 1
    assert "1 prompt is left out" in caplog.text
    with pytest.raises(DataError, match="no prompt has at most max_length = 1 token"):
        build_prompt_dataset(rows, bos, 1)
    with pytest.raises(ConfigError, match="build_prompt_dataset needs a tokenizer"):
        build_prompt_dataset(rows, None, 20)


def test_a_row_that_asks_nothing_is_an_error():
    """In the words of the other commands."""
    with pytest.raises(DataError, match="the row asks nothing"):
        asked_of({"messages": [{"role": "system", "content": "a"}, ANSWER]})
