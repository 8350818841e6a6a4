"""The built-in config with MMLU: it measures letters during training and by `xtuner test`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from xtuner import cli
from xtuner.errors import ConfigError
from xtuner.evaluation import BaseMetric, MMLUMetric

NAME = "internlm_7b_qlora_oasst1_mmlu_e3"
QUESTIONS = [
    {
        "subject": ["jurisprudence", "anatomy", "machine_learning"][n % 3],
        "input": f"one two {'six ' * (n % 4)}\nA. one\nB. two\nC. six\nD. ten\nAnswer: ",
        "output": "ABCD"[n % 4],
    }
    for n in range(10)
]
TALKS = [{"text": f"### Human: who are you {n}### Assistant: a small model"} for n in range(12)]
OPTIONS = [
    "pretrained_model_name_or_path=model",
    "model.llm.quantization_config=None",
    "data_path=talks.jsonl",
]
OPTIONS += [
    "mmlu_data_root=./",
    "evaluate_steps=2",
    "accumulative_counts=1",
    "save_steps=100",
    "max_length=64",
]
OPTIONS += ["randomness.seed=0", "custom_hooks=[]", "train_cfg.max_epochs=None", "train_cfg.max_iters=4"]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, monkeypatch, llama_dir, run):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama_dir, "model")
    Path("talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TALKS), "utf-8")
    for split in ("val", "test"):
        Path(f"five_shot_mmlu_{split}.json").write_text(json.dumps(QUESTIONS), "utf-8")
    return tmp_path


def by_hand(folder="model"):
    """Whether the likeliest letter is right, of each question, by a forward of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ABCD"]
    found = []
    for row in QUESTIONS:
        with torch.no_grad():
            ids = [tokenizer.bos_token_id, *tokenizer(row["input"])["input_ids"]]
            logits = model(torch.tensor([ids])).logits[0, -1]
        found.append("ABCD"[int(logits[letters].argmax())] == row["output"])
    return found


def test_accuracy_is_measured_saved_and_the_best_is_kept(here, run):
    """In the log and the scalars, of all and of each category; `xtuner test` finds the same."""
    words = [f"{NAME}", "--work-dir", "w", "--cfg-options", *OPTIONS]
    out = run("train", *words, "default_hooks.checkpoint.save_best=mmlu_fs_val/accuracy", with_log=True)
    (file,) = Path("w").glob("*/vis_data/scalars.json")
    scalars = [
        line for line in map(json.loads, file.read_text().splitlines()) if "val/mmlu_fs_val/accuracy" in line
    ]
    assert [line["iter"] for line in scalars] == [2, 4]
    assert "Iter(val) [4/4]  mmlu_fs_val/accuracy: " in out
    assert "machine_learning" in out
    assert len(list(Path("w").glob("best_mmlu_fs_val_accuracy_iter_*.pth"))) == 1
    run("test", NAME, "--work-dir", "t", "--cfg-options", *OPTIONS)
    (file,) = Path("t").glob("*/*.json")
    right = by_hand()
    assert json.loads(file.read_text()) == pytest.approx(
        {
            "mmlu_fs_test/accuracy": sum(right) / 10,
            "mmlu_fs_test/STEM": sum(right[2::3]) / 3,
            "mmlu_fs_test/humanities": sum(right[0::3]) / 4,
            "mmlu_fs_test/other": sum(right[1::3]) / 3,
        }
    )


class Lengths(BaseMetric):
    """A user's metric: the length of each question, in the order of the data."""

    def process(self, data_batch, data_samples):
        assert [sample["logits"].dim() for sample in data_samples] == [2]
        self.results += data_batch["data"]["attention_mask"].sum(1).tolist()

    def compute_metrics(self, results):
        return {"first": results[0], "all": sum(results)}


def test_a_metric_of_the_user_stands_beside_it(here, run):
    Path("own.py").write_text(
        f"from mmengine.config import read_base\nfrom {__name__} import Lengths\n"
        f"with read_base():\n    from .base import *\n"
        "test_evaluator = [test_evaluator, dict(type=Lengths, prefix='own')]\n",
        "utf-8",
    )
    run("copy-cfg", NAME, ".")
    Path(f"{NAME}_copy.py").rename("base.py")
    run("test", "own.py", "--work-dir", "t", "--cfg-options", *OPTIONS)
    (file,) = Path("t").glob("*/*.json")
    metrics = json.loads(file.read_text())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("model")
    lengths = [1 + len(tokenizer(question["input"])["input_ids"]) for question in QUESTIONS]
    assert (metrics["own/first"], metrics["own/all"]) == (lengths[0], sum(lengths))
    assert "mmlu_fs_test/accuracy" in metrics


class Nothing:
    """No metric."""

    def __init__(self, tokenizer, prefix):
        pass


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("default_hooks.checkpoint.save_best=mmlu_fs_val/acuracy", "Did you mean 'mmlu_fs_val/accuracy'"),
        (
            f"val_evaluator.type={__name__}.Nothing",
            "val_evaluator: Nothing is no metric: it has no method process",
        ),
    ],
)
def test_a_metric_that_is_not_there_is_one_line(here, capsys, option, message):
    words = ["train", NAME, "--work-dir", "w", "--cfg-options", *OPTIONS, option]
    assert cli.main(words) == 1
    assert message in capsys.readouterr().err


def test_an_unknown_subject_is_an_error():
    from xtuner.errors import DataError

    metric = MMLUMetric.__new__(MMLUMetric)
    with pytest.raises(DataError, match="MMLU has no subject 'lawx'"):
        metric.compute_metrics([("lawx", True)])


def test_data_without_questions_is_refused(tokenizer):
    metric = MMLUMetric(tokenizer=tokenizer)
    with pytest.raises(ConfigError, match=r"has none: copy the dataloaders of .*mmlu_collate_fn"):
        metric.process({"data": {"input_ids": torch.ones(1, 4)}, "data_samples": None}, [])
