"""`xtuner train` makes a reward model; what `pth_to_hf` writes of it scores alike in plain transformers."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.end_to_end.test_dpo import TEMPLATE, config_of_pairs, pairs, scalars
from xtuner import cli
from xtuner.errors import ModelError
from xtuner.model.loading import load_for_chat
from xtuner.model.reward import RewardModel
from xtuner.model.scoring import with_head

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TEXTS = ["who are you", "a small model, and a longer text than the other", "no"]


@pytest.fixture
def here(tmp_path, monkeypatch, tokenizer):
    """A folder with `c.py` that trains a reward model, and data; `model/` is still to come."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("d", 24), ("v", 5)):
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs(count))
        Path(f"{name}.jsonl").write_text(lines, encoding="utf-8")
    text = config_of_pairs().replace("xtuner.model.dpo import DPO", "xtuner.model.reward import RewardModel")
    text = text.replace("type=DPO, beta=0.5,", "type=RewardModel, tokenizer=tokenizer,")
    Path("c.py").write_text(text)
    return text


def put_model(folder):
    """The model's folder as `model/`, with a chat template."""
    shutil.copytree(folder, "model")
    settings = json.loads(Path("model/tokenizer_config.json").read_text())
    Path("model/chat_template.jinja").unlink(missing_ok=True)
    Path("model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))


def trained(*words):
    options = ["lr=0.01", "max_iters=8", "interval=8", "train_cfg.val_interval=4", *words]
    options.append("default_hooks.checkpoint.save_best=acc")
    assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *options]) == 0
    lines = scalars("w")
    assert {"acc", "chosen_score_mean", "rejected_score_mean", "loss"} <= lines[0].keys()
    (first, last) = (line["val/loss"] for line in lines if "val/loss" in line)
    assert last < first
    assert [line["val/acc"] for line in lines if "val/acc" in line][-1] == 1.0
    assert cli.main(["convert", "pth_to_hf", "c.py", "w/iter_8.pth", "out", "--fp32"]) == 0


def ours(lora=None):
    """The scores of the checkpoint, as the method computes them, of all texts in one pack."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = {"type": AutoModelForCausalLM.from_pretrained, "pretrained_model_name_or_path": "model"}
    model = RewardModel(llm, lora=lora).eval()
    model.load_state_dict(torch.load("w/iter_8.pth", weights_only=True)["state_dict"])
    rows = AutoTokenizer.from_pretrained("model")(TEXTS)["input_ids"]
    boundaries = [sum(map(len, rows[:count])) for count in range(len(rows) + 1)]
    data = {"input_ids": torch.tensor([*itertools.chain(*rows)])[None], "boundaries": boundaries}
    with torch.no_grad():
        return torch.stack([found["scores"] for found in model(data, mode="predict")])


def theirs(model):
    """Of `model` from transformers: a padded batch."""
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained("out")(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("family", ["llama", "qwen2", "internlm2"])
def test_all_weights(here, saved, family, caplog, capsys):
    """The folder is one of a sequence classification model with one label."""
    from transformers import AutoModelForSequenceClassification

    put_model(saved(family))
    caplog.set_level("WARNING")
    Path("c.py").write_text(here.replace("    lora=dict(", "    # lora=dict("))
    trained()
    assert "LOAD REPORT" not in caplog.text  # the head is new, as it is to be
    assert "xtuner chat" not in capsys.readouterr().err
    config = json.loads(Path("out/config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    model = AutoModelForSequenceClassification.from_pretrained("out")
    assert model.num_labels == 1
    card = Path("out/README.md").read_text()
    assert 'AutoModelForSequenceClassification.from_pretrained("THIS_FOLDER", num_labels=1)' in card
    assert "xtuner chat" not in card
    torch.testing.assert_close(theirs(model), ours(), rtol=1e-5, atol=1e-6)
    assert ours().std() > 1e-3
    capsys.readouterr()
    assert cli.main(["score", "out", "v.jsonl"]) == 0
    assert "5 pairs: accuracy 1.0000, " in capsys.readouterr().out


def test_an_adapter(here, saved, capsys):
    """The head is in the adapter, whole; the base writes text and has no place for it."""
    from peft import AutoPeftModelForSequenceClassification, LoraConfig

    put_model(saved("llama"))
    trained()
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier", "score"])
    model = AutoPeftModelForSequenceClassification.from_pretrained("out", num_labels=1)
    model.config.pad_token_id = 3
    assert (
        'AutoPeftModelForSequenceClassification.from_pretrained("THIS_FOLDER"'
        in Path("out/README.md").read_text()
    )
    torch.testing.assert_close(theirs(model), ours(LoraConfig(r=4, lora_alpha=16)), rtol=1e-5, atol=1e-6)
    message = "out is one of a model that scores texts and does not write any: load it with AutoPeftModel"
    assert cli.main(["convert", "merge", "model", "out", "merged"]) == 1
    assert message in capsys.readouterr().err
    with pytest.raises(ModelError, match=message):
        load_for_chat("model", adapter="out")


@pytest.mark.parametrize("family", ["llama", "internlm2"])
def test_a_reward_model_does_not_chat(here, saved, family, capsys):
    """One line says what it is."""
    put_model(saved(family))
    from transformers import AutoModelForCausalLM

    llm = {"type": AutoModelForCausalLM.from_pretrained, "pretrained_model_name_or_path": "model"}
    with_head(llm, 1).save_pretrained("out")
    for file in Path("model").glob("*token*"):
        shutil.copy(file, "out")
    message = (
        r"out is a model of the family '\w+', which was saved as \w+ForSequenceClassification, whose head"
    )
    with pytest.raises(ModelError, match=message):
        load_for_chat("out")
