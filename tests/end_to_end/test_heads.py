"""The configs of docs/heads.md train, validate and convert; plain transformers gives the same with them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.end_to_end.test_dpo import TEMPLATE, scalars
from xtuner import cli
from xtuner.errors import ModelError
from xtuner.model.loading import load_for_chat

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
DOCS = Path(__file__).parents[2] / "docs"
TEXTS = ["who are you", "a small model, and a longer text than the other", "no"]
ROWS = {
    "classes": [{"text": f"{word} {n}", "label": word} for n in range(12) for word in ("ham", "spam")],
    "pairs": [
        {"query": f"who is {n}", "positive": f"{n} is a model", "negatives": [f"no {n}"]} for n in range(24)
    ],
    "steps": [
        {"prompt": f"{n}+1?", "completions": [f"it is {n}+1", f"so {n + wrong}"], "labels": [True, not wrong]}
        for n in range(12)
        for wrong in (False, True)
    ],
}
KINDS = {"classes": "SequenceClassifier", "pairs": "EmbeddingModel", "steps": "ProcessRewardModel"}


def config(kind: str) -> str:
    """The config of that kind in the page."""
    (method,) = [text for text in blocks("heads.md") if KINDS[kind] in text]
    return whole_config(method)


def whole_config(method: str) -> str:
    """The beginning of every method's config, the method's part, and the end."""
    first, last = blocks("method_config.md")
    return f"{first}\n{method}\n{last}"


def blocks(page: str) -> list[str]:
    """The Python in a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def here(tmp_path, monkeypatch, saved):
    """A folder with `model/` and a function that writes config and data of a kind and trains."""
    monkeypatch.chdir(tmp_path)

    def train(kind, family="llama", lora=False, *words):
        shutil.copytree(saved(family), "model")
        settings = json.loads(Path("model/tokenizer_config.json").read_text())
        Path("model/chat_template.jinja").unlink(missing_ok=True)
        Path("model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
        for name in ("train.jsonl", "val.jsonl"):
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
        text = config(kind)
        if not lora:
            text = re.sub(r"\nlora = .*\n", "\nlora = None\n", text)
        Path("c.py").write_text(text)
        options = ["lr=0.003", "max_length=64", "max_packed_length=128", "max_iters=8", "interval=4"]
        options += ["default_hooks.logger.interval=1", "optim_wrapper.dtype=float32", *words]
        command = ["train", "c.py", "--work-dir", "w", "--cfg-options", *options]
        assert cli.main(command) == 0
        return options

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_measures(here, kind, capsys):
    """The loss of validation falls; metrics are in the log, in scalars and for `save_best`; it resumes."""
    options = here(kind, "llama", True)
    lines = scalars("w")
    assert {"acc", "loss"} <= lines[0].keys()
    first, last = ([line[f"val/{name}"] for line in lines if "val/loss" in line] for name in ("loss", "acc"))
    assert first[-1] < first[0]
    assert last[-1] > 0.3
    assert list(Path("w").glob("best_acc_iter_*.pth"))
    shutil.copytree("w", "r")
    (Path("r") / "iter_8.pth").unlink()
    (Path("r") / "last_checkpoint").write_text("r/iter_4.pth")
    assert cli.main(["train", "c.py", "--work-dir", "r", "--resume", "--cfg-options", *options]) == 0
    ours, theirs = (torch.load(f"{w}/iter_8.pth", weights_only=True)["state_dict"] for w in ("r", "w"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    capsys.readouterr()
    assert cli.main(["check", "c.py"]) == 0
    capsys.readouterr()
    command = ["test", "c.py", "--checkpoint", "w/iter_8.pth", "--work-dir", "t", "--cfg-options", *options]
    assert cli.main(command) == 0
    assert f"acc: {last[-1]:.4f}" in "".join(capsys.readouterr())


def converted(kind, here, lora, family="llama"):
    """The folder `out` of a trained model, and what our model gives for all texts in one pack."""
    from transformers import AutoTokenizer

    from xtuner.config import Builder, load_config

    options = here(kind, family, lora)
    command = ["convert", "pth_to_hf", "c.py", "w/iter_8.pth", "out", "--fp32", "--cfg-options", *options]
    assert cli.main(command) == 0
    model = (
        Builder()
        .build(load_config("c.py", dict(o.split("=") for o in options[1:2]))["model"], "model")
        .eval()
    )
    model.load_state_dict(torch.load("w/iter_8.pth", weights_only=True)["state_dict"])
    rows = AutoTokenizer.from_pretrained("model")(TEXTS)["input_ids"]
    boundaries = [sum(map(len, rows[:count])) for count in range(len(rows) + 1)]
    data = {"input_ids": torch.tensor([*itertools.chain(*rows)])[None], "boundaries": boundaries}
    if kind == "steps":  # every token is the end of a step
        data |= {"loss_positions": np.arange(boundaries[-1]), "loss_targets": np.zeros(boundaries[-1], int)}
    with torch.no_grad():
        return model(data, mode="predict")


def by_transformers(model):
    """Hidden states or logits of `model` for all texts as a padded batch, and its mask."""
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained("out")(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        output = model.eval()(**inputs)
    return (output.logits if "logits" in output else output.last_hidden_state), batch["attention_mask"]


def loaded(kind, lora, **more):
    """The folder `out` by the class that the page names."""
    import peft
    import transformers

    kind = {"classes": "SequenceClassification", "steps": "TokenClassification", "pairs": ""}[kind]
    if lora:
        return getattr(peft, f"AutoPeftModelFor{kind or 'FeatureExtraction'}").from_pretrained("out", **more)
    return getattr(transformers, f"AutoModelFor{kind}" if kind else "AutoModel").from_pretrained("out")


CASES = [("llama", False), ("llama", True), ("internlm2", False), ("qwen3", False), ("bloom", False)]


@pytest.mark.parametrize(("family", "lora"), CASES)
def test_a_classifier_loads_with_its_labels(here, family, lora):
    """Logits are ours; an adapter has the names in a file."""
    ours = torch.stack([one["scores"] for one in converted("classes", here, lora, family)])
    if lora:
        assert json.loads(Path("out/labels.json").read_text()) == ["ham", "spam"]
    model = loaded("classes", lora, **({"num_labels": 2} if lora else {}))
    if lora:
        model.config.pad_token_id = 3
    else:
        assert model.config.id2label == {0: "ham", 1: "spam"}
    torch.testing.assert_close(by_transformers(model)[0], ours, rtol=1e-5, atol=1e-5)
    assert ours.std() > 1e-3
    card = Path("out/README.md").read_text()
    assert "num_labels=2" in card
    assert "pipeline_tag: text-classification" in card


@pytest.mark.parametrize(("family", "lora"), CASES)
def test_a_process_reward_model_loads_as_a_token_classifier(here, family, lora):
    """The probability of the second label at any token is ours."""
    ours = torch.cat([one["scores"] for one in converted("steps", here, lora, family)])
    model = loaded("steps", lora, **({"num_labels": 2} if lora else {}))
    logits, mask = by_transformers(model)
    torch.testing.assert_close(logits.softmax(-1)[..., 1][mask.bool()], ours, rtol=1e-5, atol=1e-5)
    assert ours.std() > 1e-3
    card = Path("out/README.md").read_text()
    assert 'ModelForTokenClassification.from_pretrained("THIS_FOLDER", num_labels=2)' in card
    assert "pipeline_tag: token-classification" in card


@pytest.mark.parametrize(("family", "lora"), CASES)
def test_an_embedding_model_loads_without_a_head(here, family, lora):
    """Vectors by transformers, and by sentence-transformers where it is installed, are ours."""
    ours = torch.stack([one["vector"] for one in converted("pairs", here, lora, family)])
    hidden, mask = by_transformers(loaded("pairs", lora))
    last = hidden[torch.arange(len(hidden)), (mask * torch.arange(mask.shape[1])).argmax(1)]
    torch.testing.assert_close(torch.nn.functional.normalize(last, dim=-1), ours, rtol=1e-5, atol=1e-5)
    assert [module["path"] for module in json.loads(Path("out/modules.json").read_text())] == [
        "",
        "1_Pooling",
        "2_Normalize",
    ]
    card = Path("out/README.md").read_text()
    assert 'SentenceTransformer("THIS_FOLDER")' in card
    assert "pipeline_tag: sentence-similarity" in card
    package = pytest.importorskip("sentence_transformers")
    found = package.SentenceTransformer("out", device="cpu").encode(TEXTS)
    torch.testing.assert_close(torch.tensor(found), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_head_writes_no_text(here, kind, capsys):
    """Neither its folder nor its adapter is merged or chatted with."""
    converted(kind, here, lora=True)
    capsys.readouterr()
    assert cli.main(["convert", "merge", "model", "out", "merged"]) == 1
    what = "makes vectors of" if kind == "pairs" else "scores"
    message = f"is one of a model that {what} texts and does not write any: load it with"
    assert message in capsys.readouterr().err
    with pytest.raises(ModelError, match=message):
        load_for_chat("model", adapter="out")
