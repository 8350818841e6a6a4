"""The config on docs/grpo.md is one that a run takes."""

import inspect
from pathlib import Path

from tests.docs.site import ROOT, python_page
from xtuner.dataset.samplers import DefaultSampler
from xtuner.rewards.scored import Answer


def test_the_parts_of_the_config_take_their_arguments(tmp_path, monkeypatch):
    """The rewards score an answer, by the functions and weights of the page."""
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text("def polite(question, answer, row):\n    return 'please' in answer\n")
    block = python_page.python_blocks((ROOT / "docs" / "grpo.md").read_text("utf-8"))[0]
    names = dict.fromkeys(("llm", "lora", "rows", "tokenizer", "template"))
    page = {**names, "DefaultSampler": DefaultSampler}
    exec(compile(block, "page", "exec"), page)
    for part in (page["model"], page["train_dataloader"]["dataset"], page["train_dataloader"]["sampler"]):
        kind, given = part["type"], {name: value for name, value in part.items() if name != "type"}
        inspect.signature(kind).bind_partial(**given)
    rollouts = page["rollouts"]
    *plain, matches = rollouts["rewards"]
    matches = matches.pop("type")(**matches)
    made = rollouts.pop("type")(**{**rollouts, "rewards": [*plain, matches]})
    answer = Answer("1 + 1?", "please: #### 2", "2", {}, "d.jsonl line 1")
    assert (made.rewards.score([answer]) @ made.rewards.weights).tolist() == [1 + 0.5 + 0.2]
