"""A dialogue reads to the model as the same conversation does in training."""

import json

import pytest

from tests.conftest import DATA
from xtuner.chat.session import ChatTemplateSession, Session, make_session
from xtuner.errors import DataError
from xtuner.generation.generate import Completion
from xtuner.utils import PROMPT_TEMPLATE


def talk(session, turns, tokenizer):
    """The ids after all `turns` of (question, answer), as the next question would find them."""
    suffix = session.template.get("SUFFIX") or ""
    for question, answer in turns:
        session.ask(question, 10)
        ids = tokenizer.encode(answer + suffix, add_special_tokens=False)
        session.answered(question, Completion(answer, ids, "stop" if suffix else "length", 1.0), set())
    return session.history_ids()


@pytest.fixture(scope="module")
def tokenizers():
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(DATA / f"tokenizer_{name}") for name in ("bos", "qwen")}


def test_equals_training(tokenizers):
    """The ids of a dialogue are those that the original's data set makes of the same conversation."""
    rows = [json.loads(line) for line in (DATA / "encode_cases.jsonl").read_text().splitlines()]
    checked = 0
    for row in rows:
        turns = row["conversation"]
        # A dialogue has one system text, at its start, and is never cut.
        if row["template"] is None or row["max_length"] < 4096 or any(t.get("system") for t in turns[1:]):
            continue
        tokenizer = tokenizers[row["tokenizer"]]
        session = Session(tokenizer, PROMPT_TEMPLATE[row["template"]], system=turns[0].get("system") or "")
        found = talk(session, [(turn["input"], turn["output"]) for turn in turns], tokenizer)
        assert found == row["input_ids"], (row["template"], row["tokenizer"], turns)
        checked += 1
    assert checked > 80


@pytest.mark.parametrize(
    ("template", "said", "finish", "closed"),
    [
        # (what the model says, how it ended) -> the answer as the history keeps it
        ("default", "Hi</s>", "end", "Hi</s>\n"),
        ("default", "Hi", "length", "Hi</s>\n"),
        ("internlm2_chat", "Hi<|im_end|>", "stop", "Hi<|im_end|>\n"),
        ("internlm2_chat", "Hi", "length", "Hi<|im_end|>\n"),
        ("internlm2_chat", "Hi</s>", "end", "Hi<|im_end|>\n"),
        ("internlm2_chat", "Hi###", "stop", "Hi<|im_end|>\n"),
        ("gemma", "Hi<end_of_turn>", "stop", "Hi<end_of_turn></s>\n"),
        ("gemma", "Hi</s>", "end", "Hi<end_of_turn></s>\n"),
        (None, "Hi###", "stop", "Hi</s>"),
    ],
)
def test_an_answer_is_closed_as_in_training(tokenizer, template, said, finish, closed):
    """However the model ended its answer, the history holds the end that training puts there."""
    session = Session(tokenizer, PROMPT_TEMPLATE[template] if template else None)
    ids = tokenizer.encode(said, add_special_tokens=False)
    answer = session.close(Completion("Hi", ids, finish, 1.0), {tokenizer.eos_token_id})
    assert answer == tokenizer.encode(closed, add_special_tokens=False)


def test_round_and_bot_name_are_filled_in(tokenizer):
    """Rounds count the turns; braces in what is typed stay."""
    session = Session(tokenizer, PROMPT_TEMPLATE.chatglm2)
    talk(session, [("one", "1")], tokenizer)
    assert tokenizer.decode(session.prompt_ids("{input}")) == "<s>[Round 2]\n\n问：{input}\n\n答："
    session.reset()
    assert tokenizer.decode(session.ask("x", 5)) == "<s>[Round 1]\n\n问：x\n\n答："


def test_the_oldest_turns_go_and_the_system_text_stays(tokenizer, caplog):
    """A full context drops the first turns and logs it; the first remaining one gets the system text."""
    session = Session(tokenizer, PROMPT_TEMPLATE.default, system="Be kind.", context=120)
    turns = [(f"question {i}", f"answer {i}") for i in range(3)]
    talk(session, turns, tokenizer)
    assert len(session.turns) == 3
    text = tokenizer.decode(session.ask("and now?", 30))
    kept = [q for q, _ in turns if q in text]
    assert kept == [q for q, _ in turns][-len(kept) :]
    assert 0 < len(kept) < 3
    assert text.startswith(f"<s><|System|>:Be kind.\n<|User|>:{kept[0]}")
    assert len(tokenizer.encode(text, add_special_tokens=False)) <= 90
    dropped = "1 oldest response" if len(kept) == 2 else "2 oldest responses"
    assert f"the {dropped}, since it exceeds the length limitation 120" in caplog.text


@pytest.mark.parametrize("name", ["default", "chatglm2", "internlm2_chat"])
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_what_is_left_of_a_full_dialogue_begins_as_a_dialogue_does(name, system, tokenizer):
    """The turns left are those that fit, and the first has what opens a sequence."""
    turns = [(f"question {i}", f"answer {i}") for i in range(30)]
    session = Session(tokenizer, PROMPT_TEMPLATE[name], system, context=200)
    talk(session, turns[:-20], tokenizer)
    recalled = Session(tokenizer, PROMPT_TEMPLATE[name], system, context=200)
    recalled.recall(turns[:-20], 10, lambda text: True)
    ids = session.ask("and now?", 10)
    assert recalled.ask("and now?", 10) == ids
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) <= 190
    whole = Session(tokenizer, PROMPT_TEMPLATE[name], system)
    talk(whole, turns[:-20], tokenizer)
    whole._keep(whole.turns[-len(session.turns) :])
    assert whole.history_ids() + whole.prompt_ids("and now?") == ids
    whole = Session(tokenizer, PROMPT_TEMPLATE[name], system)
    talk(whole, turns[:-20], tokenizer)
    whole._keep(whole.turns[-len(session.turns) - 1 :])
    assert len(whole.history_ids() + whole.prompt_ids("and now?")) > 190


def test_a_question_longer_than_the_context_is_an_error(tokenizer):
    """What does not fit alone is refused with its length."""
    session = Session(tokenizer, PROMPT_TEMPLATE.default, context=20)
    with pytest.raises(DataError, match=r"this input has \d+ tokens; the context of 20 leaves room for 15"):
        session.ask("word " * 30, 100)


def test_the_tokenizers_own_template(tokenizer):
    """Without a template of ours the tokenizer's own renders the whole dialogue."""
    import copy

    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    session = ChatTemplateSession(own, system="S")
    ids = session.ask("Q", 10)
    session.answered("Q", Completion("A", own.encode("A"), "end", 1.0), set())
    before = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert own.decode(ids) == before
    again = own.decode(session.ask("Q2", 10))
    assert again == before + "A<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"
    own.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(DataError, match=r"refuses this conversation of the roles .*: no system"):
        session.ask("Q3", 10)


def test_auto_is_the_tokenizers_own_template_in_chat_as_in_training(tokenizer):
    """What the model is asked with begins what it was trained on; its answer ends at the template's mark."""
    import copy

    from xtuner.dataset.encoding.conversations import encode_conversations
    from xtuner.dataset.map_fns import template_map_fn_factory

    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    session = make_session(own, PROMPT_TEMPLATE.auto, "S")
    assert isinstance(session, ChatTemplateSession)
    assert session.template["STOP_WORDS"] == ["<|im_end|>"]
    asked = session.ask("Q", 10)
    turns = [{"system": "S", "input": "Q", "output": "A"}]
    conversation = template_map_fn_factory("auto")({"conversation": turns})["conversation"]
    ids, trained = encode_conversations([conversation], own).sample(0)
    assert ids[: trained.argmax()].tolist() == asked
    assert type(make_session(own, PROMPT_TEMPLATE.default)) is Session


def test_undo_and_another_system_text(tokenizer):
    """An undone turn leaves no trace; a new system text replaces the first."""
    turns = [("one", "1"), ("two", "2")]
    session = Session(tokenizer, PROMPT_TEMPLATE.chatglm2, system="Be kind.")
    talk(session, turns, tokenizer)
    assert session.undo()
    session.set_system("Be brief.")
    expected = Session(tokenizer, PROMPT_TEMPLATE.chatglm2, system="Be brief.")
    assert session.history_ids() == talk(expected, turns[:1], tokenizer)
    assert session.prompt_ids("x") == expected.prompt_ids("x")
    assert session.undo()
    assert not session.undo()
    assert session.history_ids() == []


def test_a_turn_may_have_a_system_text_of_its_own(tokenizer):
    """The result of a tool is put where training puts the system text of a later turn."""
    session = Session(tokenizer, PROMPT_TEMPLATE.default, system="Be kind.")
    talk(session, [("one", "1")], tokenizer)
    asked = tokenizer.decode(session.ask("", 10, system="Response:2\n"))
    assert asked == (
        "<s><|System|>:Be kind.\n<|User|>:one\n<|Bot|>:1</s>\n<s><|System|>:Response:2\n\n<|User|>:\n<|Bot|>:"
    )


def test_a_question_too_long_forgets_nothing(tokenizer):
    """The dialogue continues after a refused question as if it had not been asked."""
    session = Session(tokenizer, PROMPT_TEMPLATE.default, context=120)
    before = talk(session, [("one", "1")], tokenizer)
    with pytest.raises(DataError, match="leaves room for"):
        session.ask("word " * 40_000, 10)
    assert session.history_ids() == before
