"""The tokens of pairs against the tokenizer's own apply_chat_template on the same rows."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
from jinja2 import TemplateError

from xtuner.dataset.preference_dataset import build_preference_dataset, build_unpaired_dataset

TEMPLATES = Path(__file__).parents[2] / "data" / "chat_templates"
# One of each kind: plain marks, a system text in the question, thinking, tools, [INST].
NAMES = [
    "chatml",
    "llama3",
    "llama2-chat",
    "gemma",
    "ministral-3-instruct",
    "phi4",
    "qwen2.5-instruct",
    "qwen3",
    "qwen3-thinking-2507",
    "deepseek-v3",
    "smollm3",
    "internlm2.5-chat",
    "granite-3.3",
    "olmo2",
    "yi-1.5-chat",
    "zephyr-7b-beta",
    "command-r",
    "glm4.5-air",
]


def message(role, content):
    return {"role": role, "content": content}


ONE = [message("user", "Who are you?")]
ROWS = {
    "one turn": (ONE, ["I am a small model.", "你是谁？"]),
    "system": ([message("system", "Be kind."), *ONE], ["I am  kind.\n\nYes", "No"]),
    "turns": ([*ONE, message("assistant", "A model."), message("user", "So?")], ["So, so.", " ok"]),
}


def with_template(tokenizers, name):
    found = copy.deepcopy(tokenizers["qwen"])
    found.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return found


def own(tokenizer, messages, **asked):
    return list(tokenizer.apply_chat_template(messages, return_dict=False, **asked))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", NAMES)
def test_pairs_have_the_tokens_of_the_tokenizers_template(name, kind, tokenizers):
    """Ids of prompt and answer as they are; supervised from the end of the prompt to that of the answer."""
    tokenizer = with_template(tokenizers, name)
    prompt, answers = ROWS[kind]
    chosen, rejected = ([message("assistant", words)] for words in answers)
    try:
        asked = own(tokenizer, prompt, add_generation_prompt=True)
    except (TemplateError, ValueError):
        pytest.skip("the template takes no such dialogue")
    if "Be kind" not in tokenizer.decode(asked) and kind == "system":
        pytest.skip("the template leaves the system text out, and training puts it into the question")
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    item = build_preference_dataset([row], tokenizer, 4096)[0]
    for side, answer in enumerate((chosen, rejected)):
        start, end = item["cumulative_len"][side : side + 2]
        ids, labels = item["input_ids"][start:end], item["labels"][start:end]
        assert ids.tolist() == own(tokenizer, prompt + answer)
        supervised = np.flatnonzero(labels != -100)
        assert np.all(np.diff(supervised) == 1)
        words = tokenizer.decode(ids[supervised])
        assert answers[side].strip() in words
        # Some templates mark themselves what is generated, with the header of the turn.
        if ids[: len(asked)].tolist() == asked and "generation %}" not in tokenizer.chat_template:
            assert supervised[0] == len(asked)
        assert tokenizer.decode(ids[supervised[-1] + 1 :]).strip() == ""


@pytest.mark.parametrize("name", ["qwen2.5-instruct", "qwen3", "llama3.1-instruct", "smollm3"])
def test_tools_and_their_results_are_in_prompts_of_pairs(name, tokenizers):
    tokenizer = with_template(tokenizers, name)
    tools = [{"type": "function", "function": {"name": "get", "description": "d", "parameters": {}}}]
    call = {"type": "function", "function": {"name": "get", "arguments": {"city": "P"}}}
    prompt = [*ONE, {**message("assistant", ""), "tool_calls": [call]}, message("tool", "warm")]
    row = {"prompt": prompt, "tools": tools}
    row |= {"chosen": [message("assistant", "Warm.")], "rejected": [message("assistant", "Cold.")]}
    item = build_preference_dataset([row], tokenizer, 4096)[0]
    ids = item["input_ids"][: item["cumulative_len"][1]].tolist()
    assert ids == own(tokenizer, prompt + row["chosen"], tools=tools)


def test_labelled_answers_have_the_tokens_of_pairs(tokenizers):
    """And mismatched ones those of the template on the other answer."""
    tokenizer = with_template(tokenizers, "qwen2.5-instruct")
    rows = [
        {"prompt": f"Q{n}", "completion": words, "label": n == 0} for n, words in enumerate(("yes", "no way"))
    ]
    data = build_unpaired_dataset(rows, tokenizer, 64, "auto")
    for n, (answer, other) in enumerate((("yes", "no way"), ("no way", "yes"))):
        wanted = [
            own(tokenizer, [message("user", f"Q{n}"), message("assistant", words)])
            for words in (answer, other)
        ]
        bounds = data[n]["cumulative_len"]
        found = [data[n]["input_ids"][start:end].tolist() for start, end in itertools.pairwise(bounds)]
        assert found == wanted
