"""A tokenizer with a chat template, and what the samples of a data set say."""

from __future__ import annotations

import copy
import itertools

import pytest

TEMPLATE = (
    "{% if tools %}[tools]{{ tools | length }}<|im_end|>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content and loop.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    found = copy.deepcopy(tokenizers["qwen"])
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def samples_of(tokenizer):
    """(text, supervised text) of each sample of each item."""

    def samples(dataset):
        found = []
        for item in map(dataset.__getitem__, range(len(dataset))):
            found.append([])
            for start, end in itertools.pairwise(item["cumulative_len"]):
                ids, labels = item["input_ids"][start:end], item["labels"][start:end]
                found[-1].append((tokenizer.decode(ids), tokenizer.decode(ids[labels != -100])))
        return found

    return samples


@pytest.fixture(scope="module")
def answers_of(samples_of):
    """What is supervised of each item, without the marks that end it."""

    def answers(dataset):
        return [[said.replace("<|im_end|>", "") for _, said in item] for item in samples_of(dataset)]

    return answers
