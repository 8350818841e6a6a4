"""Pairs of answers: which tokens of which rows, together in which items."""

from __future__ import annotations

import copy
import itertools
import json
import logging

import numpy as np
import pytest

from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.dataset.preference_dataset import (
    build_preference_dataset,
    intel_orca_dpo_map_fn,
    load_jsonl_dataset,
    orpo_dpo_mix_40k_map_fn,
)
from xtuner.errors import ConfigError, DataError, NotFoundError

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    found = copy.deepcopy(tokenizers["qwen"])
    found.chat_template = TEMPLATE
    return found


def row(question, chosen, rejected):
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


ROWS = [
    row("Add 1 and 2.", "3", "It is 4, I think."),
    row("Who?", "A model.", "Me!"),
    row("Say a.", "a", "b"),
]


def samples_of(dataset, tokenizer):
    """(text, supervised text) of each sample of each item."""
    found = []
    for item in map(dataset.__getitem__, range(len(dataset))):
        bounds = item["cumulative_len"]
        found.append([])
        for start, end in itertools.pairwise(bounds):
            ids, labels = item["input_ids"][start:end], item["labels"][start:end]
            found[-1].append((tokenizer.decode(ids), tokenizer.decode(ids[labels != -100])))
    return found


def test_an_item_is_a_prompt_with_each_of_its_answers(tokenizer):
    """The answer and the mark that ends it are supervised; an answer inside the prompt is not."""
    first = row("Add 1 and 2.", "3", "4")
    first["prompt"] += [{"role": "assistant", "content": "Why?"}, {"role": "user", "content": "So."}]
    dataset = build_preference_dataset([first, ROWS[1]], tokenizer, 64)
    before = "[user]Add 1 and 2.<|im_end|>[assistant]Why?<|im_end|>[user]So.<|im_end|>[assistant]"
    assert samples_of(dataset, tokenizer) == [
        [(before + "3<|im_end|>", "3<|im_end|>"), (before + "4<|im_end|>", "4<|im_end|>")],
        [
            ("[user]Who?<|im_end|>[assistant]A model.<|im_end|>", "A model.<|im_end|>"),
            ("[user]Who?<|im_end|>[assistant]Me!<|im_end|>", "Me!<|im_end|>"),
        ],
    ]
    assert dataset.source_places(1) == ["row 1 (counted from 0)"] * 2
    assert dataset.stats["rows"] == 2


def test_pairs_stay_together_in_packs(tokenizer):
    """Chosen first, then rejected, whatever the packing does; a pack holds no more tokens than it may."""
    rows = [row(f"q{i} " * (i % 5), f"good {i}", f"bad {i}" * (i % 3 + 1)) for i in range(40)]
    dataset = build_preference_dataset(rows, tokenizer, 64, use_varlen_attn=True, max_packed_length=128)
    assert len(dataset) < 40
    assert max(dataset.length) <= 128
    found = [sample for item in samples_of(dataset, tokenizer) for sample in item]
    questions = [text.split("[assistant]")[0] for text, _ in found]
    assert questions[::2] == questions[1::2]
    chosen, rejected = ([answer for _, answer in found[side::2]] for side in (0, 1))
    assert sorted(chosen) == sorted(f"good {i}<|im_end|>" for i in range(40))
    assert all(answer.startswith("bad") for answer in rejected)


def test_a_batch_counts_its_pairs(tokenizer):
    """Samples of both items follow one another."""
    dataset = build_preference_dataset(ROWS, tokenizer, 64)
    data = preference_collate_fn([dataset[0], dataset[1]])["data"]
    assert data["num_pairs"] == 2
    assert (
        data["boundaries"]
        == np.cumsum(
            [0, *np.diff(dataset[0]["cumulative_len"]), *np.diff(dataset[1]["cumulative_len"])]
        ).tolist()
    )
    assert preference_collate_fn([dataset[2]], return_hf_format=True)["num_pairs"] == 1


def test_a_pair_without_one_of_its_answers_is_left_out_and_counted(tokenizer, caplog):
    """A row at fault, a prompt that alone fills max_length, and a pair too long for a pack."""
    rows = [
        *ROWS * 20,
        {"prompt": [], "chosen": []},
        row("long " * 60, "a", "b"),
        row("x", "a" * 8, "y " * 30),
    ]
    with caplog.at_level(logging.WARNING, "mmengine"):
        dataset = build_preference_dataset(rows, tokenizer, 40, use_varlen_attn=True, max_packed_length=45)
    places = {place for i in range(len(dataset)) for place in dataset.source_places(i)}
    assert places == {f"row {i} (counted from 0)" for i in range(60)}
    said = [record.getMessage() for record in caplog.records]
    assert "data: 1 pair of more than max_packed_length = 45 tokens left out" in said
    assert any("row 60 (counted from 0): the row has no field" in line for line in said)
    assert dataset.stats["rows"] == 63


def test_without_any_pair_it_is_an_error(tokenizer):
    with pytest.raises(DataError, match="max_packed_length is 3, but the shortest pair has 3"):
        build_preference_dataset(ROWS, tokenizer, 64, use_varlen_attn=True, max_packed_length=3)


def test_map_functions_make_such_rows_of_known_data(tokenizer):
    """Intel's pairs of texts, and conversations with a common prompt; a fault has a position."""
    intel = {"system": "Be kind.", "question": "Who?", "chosen": "A model.", "rejected": "Me!"}
    dataset = build_preference_dataset([intel], tokenizer, 64, intel_orca_dpo_map_fn)
    chosen = "[system]Be kind.<|im_end|>[user]Who?<|im_end|>[assistant]A model.<|im_end|>"
    assert samples_of(dataset, tokenizer)[0][0] == (chosen, "A model.<|im_end|>")
    plain = ROWS[1]
    mixed = {name: [*plain["prompt"], *plain[name]] for name in ("chosen", "rejected")}
    ours = samples_of(build_preference_dataset([plain], tokenizer, 64), tokenizer)
    assert (
        samples_of(build_preference_dataset([mixed], tokenizer, 64, orpo_dpo_mix_40k_map_fn), tokenizer)
        == ours
    )
    with pytest.raises(DataError, match=r"row 0 .*: intel_orca_dpo_map_fn: the row has no field 'system'"):
        build_preference_dataset([plain], tokenizer, 64, intel_orca_dpo_map_fn)


def test_files_of_pairs(tmp_path, tokenizer):
    """By name, or all of a folder in their order."""
    for number, found in enumerate(ROWS):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(found) + "\n", encoding="utf-8")
    named = [str(tmp_path / f"{number}.jsonl") for number in range(3)]
    by_name = build_preference_dataset(load_jsonl_dataset(named), tokenizer, 64)
    by_folder = build_preference_dataset(load_jsonl_dataset(data_dir=str(tmp_path)), tokenizer, 64)
    assert samples_of(by_name, tokenizer) == samples_of(by_folder, tokenizer)
    assert len(by_name) == 3
    with pytest.raises(NotFoundError, match=r"ends in '\.json\.gz'"):
        load_jsonl_dataset(data_dir=str(tmp_path), suffix=".json.gz")
    with pytest.raises(ConfigError, match="either data_files or data_dir"):
        load_jsonl_dataset()


def test_what_it_cannot_make_is_named(tokenizer, tokenizers):
    for both in (True, False):
        with pytest.raises(ConfigError, match=f"is_dpo={both} and is_reward={both}: set one of them"):
            build_preference_dataset(ROWS, tokenizer, 64, is_dpo=both, is_reward=both)
    with pytest.raises(ConfigError, match=r"reward_token_id is 92527, but the tokenizer has \d+ tokens"):
        build_preference_dataset(ROWS, tokenizer, 64, None, False, True, 92527)
    with pytest.raises(ConfigError, match=r"loss_on is 'lst'; use one of answer, last, all. Did you mean"):
        build_preference_dataset(ROWS, tokenizer, 64, loss_on="lst")
    with pytest.raises(ConfigError, match="this tokenizer has none"):
        build_preference_dataset(ROWS, tokenizers["qwen"], 64)


@pytest.mark.parametrize("packs", [False, True])
def test_the_counts_are_those_of_the_pairs_that_are_trained(packs, tokenizer, caplog):
    """Answers are cut at max_length, whatever a pack holds; of a row that is left out nothing is counted."""
    caplog.set_level(logging.INFO, "xtuner")
    rows = [ROWS[2], row("Say c.", "c " * 40, "d"), row("Say e.", "", "e " * 3)]
    rows[2]["rejected"][0]["weight"] = 0
    dataset = build_preference_dataset(
        rows, tokenizer, 24, use_varlen_attn=packs, max_packed_length=100, shuffle_before_pack=False
    )
    items = [dataset[i] for i in range(len(dataset))]
    num_tokens = sum(len(item["input_ids"]) for item in items)
    assert dataset.stats["tokens"] == num_tokens
    assert dataset.stats["trained"] == sum((item["labels"] != -100).sum() for item in items)
    assert dataset.stats["samples"] == 4
    assert "1 cut at 24 tokens" in caplog.text
    assert ("full" in caplog.text) is packs
