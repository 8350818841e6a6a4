"""The data of every built-in config for preferences, built as the config says on rows of the usual form."""

from __future__ import annotations

import json

import pytest

from xtuner.config import Builder, parse_config
from xtuner.config.build import callee_of
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.recipes.catalogue import find
from xtuner.recipes.render import render
from xtuner.recipes.special import PREFERENCE

ASKED = [{"role": "user", "content": "Q"}]
GOOD, BAD = ([{"role": "assistant", "content": words}] for words in ("A", "B"))
ROWS = {
    "orpo_dpo_mix": {"chosen": ASKED + GOOD, "rejected": ASKED + BAD, "source": "s"},
    "ultrafeedback": {"prompt": "Q", "chosen": ASKED + GOOD, "chosen-rating": 5, "rejected": ASKED + BAD},
    "jsonl_dataset": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
}


@pytest.mark.parametrize("name", PREFERENCE)
def test_the_data_of_a_built_in_config_are_pairs(name, tokenizer, samples_of, tmp_path):
    """Of its map function, mode and reward token; all that part 3 names is there."""
    config = parse_config(render(name), f"{name}.py")
    rows = [ROWS[find(name).dataset.name]] * 2
    data = dict(config["train_dataset"])
    if "data_files" in data["dataset"]:
        path = tmp_path / "d.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data["dataset"] = {**data["dataset"], "data_files": [str(path)]}
    else:
        data["dataset"] = rows
    token = data["reward_token_id"]
    data |= {"tokenizer": tokenizer, "reward_token_id": 5 if token > 0 else token}
    dataset = Builder().build(data, "train_dataset")
    (first, *_) = samples_of(dataset)
    end = tokenizer.decode([5]) if data["is_reward"] else ""
    wanted = [f"[user]Q<|im_end|>[assistant]{words}<|im_end|>{end}" for words in "AB"]
    assert [text for text, _ in first] == wanted * (len(first) // 2)
    supervised = [said for _, said in first][:2]
    assert supervised == ([end] * 2 if end else ["A<|im_end|>", "B<|im_end|>"])
    assert preference_collate_fn([dataset[0]])["data"]["num_pairs"] == len(first) // 2
    assert callee_of(config["train_dataloader"]["collate_fn"], "collate_fn") is preference_collate_fn
    assert (token > 0) == data["is_reward"]
