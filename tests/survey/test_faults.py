"""Probable mistakes are found, and nothing else."""

import json
import shutil

import pytest

from xtuner.survey.wording import sentence

ROWS = [
    {"conversation": [{"input": f"q{i}", "output": "a"}, {"input": "and?", "output": "b"}]} for i in (1, 2)
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def found(survey):
    return {finding.kind: finding.values for finding in survey.findings}


@pytest.mark.parametrize("template", ["internlm2_chat", "vicuna", "qwen_chat", "llama2_chat"])
def test_good_data_has_no_findings(survey_of, template):
    assert survey_of(ROWS, template=template).findings == []


def test_a_document_has_no_end(survey_of):
    rows = [{"text": "a b c"}]
    assert survey_of(rows, map_fn="pretrain_map_fn", template=None).findings == []


def test_answers_without_an_end_are_counted(survey_of):
    """An end that `need_eos_token` turns off, in one of three answers."""
    turns = [{"input": "q", "output": "a"}, {"input": "q", "output": "b", "need_eos_token": False}]
    rows = [{"conversation": [*turns, {"input": "q", "output": "c"}]}]
    assert found(survey_of(rows, template=None)) == {
        "no_end": {"count": 1, "total": 3, "ends": ["</s>", "<s>", "<unk>"]}
    }


def test_an_end_mark_of_another_model_is_told(survey_of):
    """The template ends an answer with a mark that is no token of this tokenizer."""
    values = found(survey_of(ROWS, template="llama3_chat"))["suffix_in_pieces"]
    assert values["suffix"] == "<|eot_id|>"
    assert values["count"] > 1


def test_two_begin_tokens_in_a_row_are_found(survey_of):
    """A text that contains one itself."""
    rows = [{"conversation": [{"input": "<s>q", "output": "a"}]}, ROWS[0]]
    assert found(survey_of(rows, template=None)) == {"bos_twice": {"token": "<s>", "count": 1, "total": 2}}


def test_lost_and_cut_rows_are_told(survey_of):
    rows = [
        {"conversation": [{"input": "word " * 60, "output": "a"}]},
        {"conversation": [{"input": "q", "output": "word " * 60}]},
        ROWS[0],
    ]
    values = found(survey_of(rows, max_length=48))
    assert set(values) == {"dropped", "cut"}
    assert values["dropped"]["reason"] == "a prompt that alone fills max_length"
    assert values["dropped"]["places"][0].endswith("rows0.jsonl line 1")
    assert (values["cut"]["count"], values["cut"]["max_length"]) == (1, 48)


@pytest.fixture
def own_chatml(tmp_path, request):
    """The folder of a tokenizer whose own chat template is ChatML."""
    folder = tmp_path / "own"
    shutil.copytree(request.path.parents[1] / "data" / "tokenizer_bos", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {**config, "chat_template": CHATML, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
        )
    )
    return str(folder)


def test_the_tokenizers_own_template_is_compared(survey_of, own_chatml):
    assert survey_of(ROWS, tokenizer=own_chatml).findings == []
    values = found(survey_of(ROWS, tokenizer=own_chatml, template="internlm_chat"))["other_template"]
    assert values["ours"].startswith("<|User|>:q1")
    assert values["own"].startswith("<|im_start|>user\nq1<|im_end|>")
    assert values["place"].endswith("line 1 (row 0)")


def test_the_tokenizers_own_template_is_not_compared_with_itself(survey_of, own_chatml):
    """Its answers end with the marks of the chat template, which count as ends."""
    survey = survey_of(ROWS, tokenizer=own_chatml, template="auto", num_rows=1)
    assert survey.findings == []
    assert survey.rows[0].segments[1].text == "a<|im_end|>"


def test_the_end_mark_of_the_tokenizers_own_template_ends_an_answer(survey_of, own_chatml, tmp_path):
    """Also if it is not a special token of the tokenizer."""
    file = tmp_path / "own" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "additional_special_tokens"}))
    assert survey_of(ROWS, tokenizer=own_chatml, template="auto").findings == []


def test_the_cure_is_said_for_what_it_cures(survey_of, own_chatml):
    """ChatML of own_chatml writes neither calls nor thinking."""
    call = {"function": {"name": "now", "arguments": {}}}
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", **answer}]}
        for answer in ({"content": "a", "tool_calls": [call]}, {"content": "b", "reasoning_content": "hm"})
    ]
    survey = survey_of(rows, tokenizer=own_chatml, template="auto", map_fn="'auto'")
    cures = {
        f.values["what"]: "one_sample_per_turn" in sentence(f) for f in survey.findings if "what" in f.values
    }
    assert cures == {"a tool call": False, "thinking": True}
