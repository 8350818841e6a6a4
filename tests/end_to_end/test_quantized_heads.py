"""Heads on a base in 4 bits: they train and convert; peft and `xtuner score` give the numbers of training."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig

from tests.end_to_end.test_dpo import TEMPLATE, pairs, scalars
from tests.end_to_end.test_heads import KINDS, ROWS, TEXTS, blocks, by_transformers, config, whole_config
from xtuner import cli
from xtuner.config import Builder, load_config
from xtuner.model.classifier import SequenceClassifier
from xtuner.model.process_reward import ProcessRewardModel
from xtuner.model.quantization import keep_4bit_weights_unpacked
from xtuner.model.reward import RewardModel

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_compute_dtype": torch.float32,
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_type": "nf4",
}
IN_CONFIG = "quantization_config=dict(type=BitsAndBytesConfig, **nf4),\n)\nlora ="
OPTIONS = ["lr=0.003", "max_length=64", "max_packed_length=128", "max_iters=8", "interval=4"]
OPTIONS += ["default_hooks.logger.interval=1", "optim_wrapper.dtype=float32"]
AUTO = {"classes": "SequenceClassification", "reward": "SequenceClassification"} | {
    "steps": "TokenClassification",
    "pairs": "FeatureExtraction",
}


@pytest.fixture
def trained(tmp_path, monkeypatch, saved):
    """Function of a kind: `model/`, a run in `w/`, and the adapter in `out/`."""
    monkeypatch.chdir(tmp_path)

    def train(kind):
        shutil.copytree(saved("llama"), "model")
        settings = json.loads(Path("model/tokenizer_config.json").read_text())
        Path("model/chat_template.jinja").unlink(missing_ok=True)
        Path("model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
        rows = pairs(12) if kind == "reward" else ROWS[kind]
        for name in ("train.jsonl", "val.jsonl"):
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = config(kind) if kind in KINDS else whole_config(blocks("preferences/reward.md")[0])
        text, count = re.subn(r"\)\nlora =", IN_CONFIG, text)
        assert count == 1
        nf4 = ", ".join(f"{name}={value!r}" for name, value in NF4.items())
        Path("c.py").write_text(
            f"from transformers import BitsAndBytesConfig\nimport torch\nnf4 = dict({nf4})\n{text}"
        )
        assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *OPTIONS]) == 0
        words = ["c.py", "w/iter_8.pth", "out", "--fp32", "--cfg-options", *OPTIONS]
        assert cli.main(["convert", "pth_to_hf", *words]) == 0

    return train


def numbers(kind, rows):
    """The scores or vectors of the checkpoint, as the method computes them, of all samples in one pack."""
    model = Builder().build(load_config("c.py", {"max_length": "64"})["model"], "model").eval()
    model.load_state_dict(torch.load("w/iter_8.pth", weights_only=True)["state_dict"])
    boundaries = [0, *itertools.accumulate(map(len, rows))]
    data = {"input_ids": torch.tensor([*itertools.chain(*rows)])[None], "boundaries": boundaries}
    if kind == "steps":  # every token is the end of a step
        data |= {"loss_positions": np.arange(boundaries[-1]), "loss_targets": np.zeros(boundaries[-1], int)}
    with torch.no_grad():
        found = model(data, mode="predict")
    return [one["vector" if kind == "pairs" else "scores"] for one in found]


@pytest.mark.parametrize("kind", AUTO)
def test_it_learns_and_peft_loads_it(trained, kind):
    """The numbers of a padded batch are those of the pack."""
    import peft
    from transformers import AutoTokenizer, BitsAndBytesConfig

    trained(kind)
    lines = scalars("w")
    losses = [line["val/loss"] for line in lines if "val/loss" in line]
    assert losses[-1] < losses[0]
    num_labels = {"classes": 2, "steps": 2, "reward": 1}.get(kind)
    model = getattr(peft, f"AutoPeftModelFor{AUTO[kind]}").from_pretrained(
        "out",
        quantization_config=BitsAndBytesConfig(**NF4, llm_int8_skip_modules=["score"]),
        **({"num_labels": num_labels} if num_labels else {}),
    )
    # On some CPUs bitsandbytes repacks weights for a kernel that lacks sizes as small as these.
    keep_4bit_weights_unpacked(model)
    model.config.pad_token_id = 3
    ours = numbers(kind, AutoTokenizer.from_pretrained("model")(TEXTS)["input_ids"])
    theirs, mask = by_transformers(model)
    if kind == "steps":
        ours, theirs = torch.cat(ours), theirs.softmax(-1)[..., 1][mask.bool()]
    else:
        ours = torch.stack(ours)
    if kind == "pairs":
        last = theirs[torch.arange(len(theirs)), mask.sum(1) - 1]
        theirs = torch.nn.functional.normalize(last, dim=-1)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert ours.std() > 1e-3


@pytest.mark.parametrize("kind", ["classes", "reward"])
def test_score_with_the_same_bits_gives_the_numbers_of_training(trained, kind, capsys):
    """In 32 bits the base is another one, and so are the numbers."""
    from transformers import AutoTokenizer

    trained(kind)
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    ours = torch.stack(numbers(kind, AutoTokenizer.from_pretrained("model")(TEXTS)["input_ids"]))
    ours = ours.softmax(-1)[:, 1] if kind == "classes" else ours[:, 0]
    found = {}
    for name, words in (("4", ["--bits", "4"]), ("32", [])):
        assert (
            cli.main(
                ["score", "out", "texts.jsonl", "--out", f"{name}.jsonl", "--torch-dtype", "fp32", *words]
            )
            == 0
        )
        lines = map(json.loads, Path(f"{name}.jsonl").read_text().splitlines())
        found[name] = torch.tensor(
            [one["score"] if kind == "reward" else one["probabilities"]["spam"] for one in lines]
        )
    torch.testing.assert_close(found["4"], ours, rtol=1e-5, atol=1e-5)
    assert (found["32"] - ours).abs().max() > 1e-4


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("method", [SequenceClassifier, ProcessRewardModel, RewardModel])
def test_a_head_is_not_quantised(method, as_dict, llama_dir):
    """Whether its model's quantisation is a config or an object, which stays as it was; layers are."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = {"type": BitsAndBytesConfig, **NF4} if as_dict else BitsAndBytesConfig(**NF4)
    llm = {
        "type": AutoModelForCausalLM.from_pretrained,
        "pretrained_model_name_or_path": str(llama_dir),
        "quantization_config": quantization,
    }
    more = {"labels": ["ham", "spam"]} if method is SequenceClassifier else {}
    model = method(llm, lora=LoraConfig(r=2), **more)
    quantised = {name for name, module in model.named_modules() if type(module) is Linear4bit}
    assert len(quantised) == 14
    assert not any("score" in name for name in quantised)
    assert as_dict or quantization.llm_int8_skip_modules is None
