"""Templates: names, attribute access, and rendering that never interprets the user's text."""

import copy
import json
import pickle
import subprocess
import sys

import pytest

from xtuner.errors import ConfigError
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE, render_prompt
from xtuner.utils.templates import fill_placeholders


def test_all_known_templates_are_there_by_name():
    """A template is found as an item, as an attribute and while iterating over the names."""
    assert len(PROMPT_TEMPLATE) == 42
    assert PROMPT_TEMPLATE["qwen_chat"] is PROMPT_TEMPLATE.qwen_chat
    assert "internlm2_chat" in PROMPT_TEMPLATE
    assert list(SYSTEM_TEMPLATE) == [
        *("moss_sft", "alpaca", "arxiv_gentile", "colorist", "coder", "lawyer", "medical", "sql")
    ]


def test_a_system_template_is_plain_text():
    """Configs use it as a string."""
    assert type(SYSTEM_TEMPLATE.alpaca) is str
    assert SYSTEM_TEMPLATE.alpaca == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n"
    )


@pytest.mark.parametrize("find", [lambda: PROMPT_TEMPLATE.internlm2_chatt, lambda: PROMPT_TEMPLATE["qwen"]])
def test_the_error_of_an_unknown_name_suggests_a_similar_one(find):
    """The error of a typo suggests the similar name."""
    with pytest.raises(ConfigError, match=r"no prompt template named '(internlm2_chatt|qwen)'"):
        find()
    with pytest.raises(ConfigError, match="Did you mean 'internlm2_chat'"):
        _ = PROMPT_TEMPLATE.internlm2_chatt
    assert getattr(PROMPT_TEMPLATE, "no_such_name", None) is None


def test_a_missing_part_is_an_attribute_error_and_none_by_get():
    """`get` returns None for a part that a template lacks."""
    assert PROMPT_TEMPLATE.default.get("STOP_WORDS") is None
    with pytest.raises(AttributeError, match="has no STOP_WORDS"):
        _ = PROMPT_TEMPLATE.default.STOP_WORDS


def test_tables_and_templates_can_be_copied_and_pickled():
    """Worker processes and copies of a config get the same templates."""
    assert pickle.loads(pickle.dumps(PROMPT_TEMPLATE)).default.SEP == "\n"
    assert copy.deepcopy(PROMPT_TEMPLATE).gemma == PROMPT_TEMPLATE.gemma


@pytest.mark.parametrize(
    ("name", "system", "number", "expected"),
    [
        ("default", "", 1, "<|User|>:hi\n<|Bot|>:"),
        ("internlm_chat", "S", 1, "<|System|>:S\n<|User|>:hi<eoh>\n<|Bot|>:"),
        ("chatglm2", "", 3, "[Round 3]\n\n问：hi\n\n答："),
        (
            "llama3_chat",
            "S",
            1,
            "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
            "\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_a_turn_is_system_then_instruction(name, system, number, expected):
    """The prompt of a turn has the family's published format."""
    assert render_prompt(PROMPT_TEMPLATE[name], "hi", system, round=number) == expected


def test_braces_in_text_stay_as_they_are():
    """The user's text is never formatted."""
    text = '{"a": {input}} {system} {{x}}'
    assert render_prompt(PROMPT_TEMPLATE.default, text, system="{round} {") == (
        "<|System|>:{round} {\n" + f"<|User|>:{text}\n<|Bot|>:"
    )


def test_a_template_without_a_system_part_puts_the_text_before_the_instruction():
    """A system text is not lost with families that have none."""
    assert render_prompt(PROMPT_TEMPLATE.minicpm, "hi", "Be kind.\n") == "Be kind.\n<用户> hi <AI>"


def test_doubled_braces_are_text_and_unknown_placeholders_an_error():
    """With doubled braces a template may contain JSON."""
    assert fill_placeholders('{{"q": "{input}"}}', input="hi") == '{"q": "hi"}'
    with pytest.raises(ConfigError, match=r"placeholder \{inputs\}.*Did you mean 'input'"):
        fill_placeholders("{inputs}", input="hi")
    assert fill_placeholders(SYSTEM_TEMPLATE.moss_sft, bot_name="MOSS").startswith(
        "You are an AI assistant whose name is MOSS.\nCapabilities and tools that MOSS can possess."
    )


def test_utils_import_without_torch():
    """Listing templates is fast."""
    code = "import sys, xtuner.utils, xtuner.dataset.map_fns; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_templates_are_json():
    """A template can be written into a config and read back."""
    assert json.loads(json.dumps(PROMPT_TEMPLATE)) == PROMPT_TEMPLATE


# (template, system) -> what two turns look like, "|" where the answers are
NEW = {
    ("qwen2_5", "S"): (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
    ),
    ("qwen3", ""): (
        "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
    ),
    ("qwen3_no_think", "S"): (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n|<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n|<|im_end|>\n"
    ),
    ("llama3_1", "S"): (
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n|<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n|<|eot_id|>"
    ),
    ("gemma3", "S"): (
        "<start_of_turn>user\nS\n\nQ1<end_of_turn>\n<start_of_turn>model\n|<end_of_turn>\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n|<end_of_turn>\n"
    ),
    ("gemma3", ""): (
        "<start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\n|<end_of_turn>\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n|<end_of_turn>\n"
    ),
    ("internlm3", "S"): (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
    ),
    ("glm4", "S"): ("<|system|>\nS<|user|>\nQ1<|assistant|>\n|{eos}<|user|>\nQ2<|assistant|>\n|{eos}"),
    ("deepseek_v3", "S"): (
        "S<｜User｜>Q1<｜Assistant｜>|<｜end▁of▁sentence｜><｜User｜>Q2<｜Assistant｜>|<｜end▁of▁sentence｜>"
    ),
    ("deepseek_r1", ""): (
        "<｜User｜>Q1<｜Assistant｜>|<｜end▁of▁sentence｜><｜User｜>Q2<｜Assistant｜>|<｜end▁of▁sentence｜>"
    ),
    ("minicpm4", ""): (
        "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n|<|im_end|>\n"
    ),
    ("phi4", "S"): (
        "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>Q1<|im_end|>"
        "<|im_start|>assistant<|im_sep|>|<|im_end|><|im_start|>user<|im_sep|>Q2<|im_end|>"
        "<|im_start|>assistant<|im_sep|>|<|im_end|>"
    ),
    ("phi4_mini", "S"): (
        "<|system|>S<|end|><|user|>Q1<|end|><|assistant|>|<|end|><|user|>Q2<|end|><|assistant|>|<|end|>"
    ),
}


@pytest.mark.parametrize(("name", "system"), NEW)
def test_two_turns_of_the_newer_families(name, system):
    """System text, question, answer and the next turn, to the last character; {eos} is the tokenizer's."""
    template = PROMPT_TEMPLATE[name]
    end = template.get("SUFFIX", "") + ("" if template.get("SUFFIX_AS_EOS") else "{eos}")
    turns = [
        render_prompt(template, question, said, round=number) + "|" + end + template.get("SEP", "")
        for number, (question, said) in enumerate([("Q1", system), ("Q2", "")], start=1)
    ]
    assert "".join(turns) == NEW[name, system]


def test_auto_is_not_a_template_of_one_turn():
    """A chat template writes whole dialogues."""
    with pytest.raises(ConfigError, match="the tokenizer's own chat_template"):
        render_prompt(PROMPT_TEMPLATE.auto, "Q")
