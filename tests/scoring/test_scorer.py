"""Scores against plain transformers, each text alone."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.end_to_end.test_dpo import pairs
from xtuner.dataset.preference_dataset import build_preference_dataset
from xtuner.errors import DataError, ModelError
from xtuner.scoring.rows import read_scored
from xtuner.scoring.scorer import check_scores, load_scorer, reward_token_of

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TEXTS = ["who are you", "a small model, and a longer text than the other", "no", "你是谁？"]


def alone(folder, samples):
    """The logits of each sample by transformers, one at a time and without padding."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in samples])


@pytest.mark.parametrize("pad_token_id", [3, None])
@pytest.mark.parametrize("family", ["llama", "qwen2", "internlm2", "gemma3_text", "bloom", "mixtral"])
def test_scores_in_batches_are_those_of_each_text_alone(scoring_dir, family, pad_token_id):
    """Of any family, sorted by length and padded; a config without a padding token stays without one."""
    folder = scoring_dir(family, pad_token_id=pad_token_id)
    scorer = load_scorer(folder)
    samples = [scorer.encode(text)[0] for text in TEXTS * 2]
    found = scorer.logits(samples, batch_size=3)
    torch.testing.assert_close(found, alone(folder, samples), rtol=1e-5, atol=1e-5)
    assert found.std() > 1e-3
    assert scorer.model.config.pad_token_id == pad_token_id


def trained_samples(rows, scorer):
    """The samples that a reward model is trained on."""
    settings = {"is_dpo": False, "is_reward": True, "reward_token_id": scorer.reward_token}
    data = build_preference_dataset(rows, scorer.tokenizer, scorer.max_length, **settings)
    for item in data:
        for start, end in itertools.pairwise(item["cumulative_len"]):
            yield item["input_ids"][start:end].tolist()


def test_samples_are_those_of_training(reward_dir):
    """The chat template, the reward token at the end, and the cut at max_length."""
    rows = pairs(6)
    scorer = load_scorer(reward_dir)
    assert scorer.reward_token == scorer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    whole = [scorer.encode(text) for row in rows for text in read_scored(row).texts]
    assert sorted(ids for ids, _ in whole) == sorted(trained_samples(rows, scorer))
    assert not any(cut for _, cut in whole)
    scorer.max_length = max(len(ids) for ids, _ in whole) - 4
    found = [scorer.encode(text) for row in rows for text in read_scored(row).texts]
    assert sorted(ids for ids, _ in found) == sorted(trained_samples(rows, scorer))
    assert any(cut for _, cut in found)


@pytest.mark.parametrize(
    ("row", "kind", "count"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "pair", 2),
        ({"prompt": "q", "chosen": "a", "rejected": ["b", "c"]}, "pair", 3),
        ({"prompt": "q", "completions": ["a", "b", "c"]}, "list", 3),
        ({"prompt": "q", "answers": ["a", "b"], "scores": [1, 2]}, "list", 2),
        ({"prompt": "q", "completion": "a", "label": True}, "single", 1),
        ({"messages": [{"role": "user", "content": "q"}], "label": "spam"}, "single", 1),
        ({"instruction": "q", "input": "", "output": "a"}, "single", 1),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "single", 1),
        ({"conversation": [{"input": "q", "output": "a"}]}, "single", 1),
        ({"Text": "q"}, "single", 1),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_formats(reward_dir, row, kind, count):
    """All that training reads; each text can be encoded."""
    found = read_scored(row)
    assert (found.kind, len(found.texts)) == (kind, count)
    scorer = load_scorer(reward_dir)
    assert all(scorer.encode(text)[0] for text in found.texts)


@pytest.mark.parametrize("row", [{"foo": 1}, {"chosen": "x"}, {"conversation": []}, {"text": None}])
def test_rows_in_no_format(row):
    with pytest.raises(DataError):
        read_scored(row)


def test_a_dialogue_needs_a_chat_template(scoring_dir):
    """Plain texts do not."""
    scorer = load_scorer(scoring_dir(chat_template=None))
    assert scorer.encode("hello")[0]
    with pytest.raises(ModelError, match="no chat template, so only rows with a 'text' can be scored"):
        scorer.encode({"messages": [{"role": "user", "content": "q"}]})


def test_numbers_that_are_not_finite_are_an_error(reward_dir):
    """JSON has no NaN, and no answer is the best of several."""
    scorer = load_scorer(reward_dir)
    torch.nn.init.constant_(scorer.model.score.weight, float("nan"))
    with pytest.raises(ModelError, match="not finite: load it in bf16 or fp32"):
        scorer.logits([[4, 5]])


def test_the_reward_token_is_the_folders(tmp_path):
    """By config.json, else by the run's config, the adapter's before the model's."""
    assert reward_token_of([tmp_path]) is None
    run = tmp_path / "xtuner_config.py"
    run.write_text("model = dict(type=RewardModel)\ntrain = dict(reward_token_id=-1)\n")
    assert reward_token_of([tmp_path]) is None
    run.write_text("reward_token_id = 7\nmodel = dict(type=RewardModel, reward_token_id=reward_token_id)\n")
    assert reward_token_of([tmp_path]) == 7
    run.write_text("train = dict(type=f, reward_token_id=9)\n")
    assert reward_token_of([tmp_path]) == 9
    (tmp_path / "config.json").write_text(json.dumps({"reward_token_id": 5}))
    assert reward_token_of([tmp_path]) == 5


def test_an_adapter_brings_its_head(llama_dir, scoring_dir, tmp_path):
    """On a base that writes text, and on one that has a head of its own."""
    from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    base = AutoModelForSequenceClassification.from_pretrained(llama_dir, num_labels=1)
    model = get_peft_model(base, LoraConfig(r=4, task_type="SEQ_CLS", init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "adapter"))
    scorer = load_scorer(llama_dir, adapter=tmp_path / "adapter")
    samples = [scorer.encode(text)[0] for text in TEXTS]
    plain = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=1).eval()
    with torch.no_grad():
        wanted = torch.cat([plain(input_ids=torch.tensor([ids])).logits for ids in samples])
    torch.testing.assert_close(scorer.logits(samples), wanted, rtol=1e-5, atol=1e-5)
    assert scorer.labels == ["LABEL_0"]
    # The adapter alone names its base.
    for is_reward in (False, True):
        found = load_scorer(tmp_path / "adapter", is_reward=is_reward)
        assert torch.equal(found.logits(samples), scorer.logits(samples))


def test_an_adapter_brings_the_names_of_its_labels(llama_dir, tmp_path):
    """`labels.json` has them, and the config of the run the kind of problem."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(llama_dir, num_labels=3)
    get_peft_model(base, LoraConfig(r=4, task_type="SEQ_CLS")).save_pretrained(str(tmp_path))
    (tmp_path / "labels.json").write_text('["ham", "spam", "other"]')
    (tmp_path / "xtuner_config.py").write_text('model = dict(problem_type="multi_label_classification")')
    scorer = load_scorer(llama_dir, adapter=tmp_path)
    assert scorer.labels == ["ham", "spam", "other"]
    assert scorer.problem_type == "multi_label_classification"


def test_models_that_do_not_score_are_refused(llama_dir, reward_dir, tmp_path):
    """One line says what it is and what to name."""
    with pytest.raises(
        ModelError, match="is a LlamaForCausalLM, which gives no scores: name a model for seq"
    ):
        check_scores(llama_dir)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"task_type": "CAUSAL_LM"}))
    with pytest.raises(ModelError, match="is of the kind CAUSAL_LM, not SEQ_CLS: it gives no scores"):
        check_scores(reward_dir, tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(reward_dir, broken)
    Path(broken, "model.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_scorer(broken)
