"""Training on stored log-probabilities of the reference: as with a living one, computed once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.end_to_end.test_dpo import TEMPLATE, config_of_pairs, pairs, scalars
from xtuner import cli, log
from xtuner.engine import reference

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

STORED = {"stored_reference": True}
FULL = {"lora": None}
OTHER = {
    "ref_llm": {
        "type": "transformers.AutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": "other",
    }
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, llama_dir):
    """A folder with `c.py`, `model/`, `other/` with other weights, and data."""
    folder = tmp_path_factory.mktemp("stored")
    shutil.copytree(llama_dir, folder / "model")
    tokenizer = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "model" / "tokenizer_config.json").write_text(
        json.dumps({**tokenizer, "chat_template": TEMPLATE})
    )
    copy_with_other_weights(folder / "model", folder / "other")
    for name, count in (("d", 12), ("v", 3)):
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs(count))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    text = config_of_pairs().replace("max_packed_length=256", "max_packed_length=96")
    text += "train_cfg = dict(type=TrainLoop, max_epochs=2)\nrandomness = dict(seed=3)\n"
    (folder / "c.py").write_text(text)
    return folder


def copy_with_other_weights(model, other):
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, other)
    weights = load_file(other / "model.safetensors")
    torch.manual_seed(1)
    changed = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(changed, other / "model.safetensors", {"format": "pt"})


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    """A copy of it with a cache of its own."""
    folder = shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(log, "_said", set())
    return folder


@pytest.fixture
def packs(monkeypatch):
    """The packs that a reference was run on."""
    seen, measure = [], reference.Backend.measure

    def counted(self, optim_wrapper, batch, **how):
        if how["mode"] == "reference":
            seen.append(len(batch["data"]["boundaries"]) - 1)
        return measure(self, optim_wrapper, batch, **how)

    monkeypatch.setattr(reference.Backend, "measure", counted)
    return seen


def train(work_dir, *options, words=(), **model):
    text = Path("c.py").read_text() + f"model.update({model})\n"
    Path("changed.py").write_text(text)
    settings = ["lr=0.01", "interval=3", *options]
    return cli.main(["train", "changed.py", "--work-dir", work_dir, *words, "--cfg-options", *settings])


def losses(work_dir):
    return [line.get("loss", line.get("val/loss")) for line in scalars(work_dir)]


def weights(work_dir):
    path = Path((Path(work_dir) / "last_checkpoint").read_text().strip())
    return torch.load(path, weights_only=True)["state_dict"]


def go_back(work_dir):
    """To the checkpoint before the last one."""
    Path(work_dir, "iter_14.pth").unlink()
    Path(work_dir, "last_checkpoint").write_text(f"{work_dir}/iter_12.pth")


def columns():
    return sorted(Path(os.environ["XTUNER_CACHE"]).rglob("reference-*.npy"))


@pytest.mark.parametrize("model", [{}, FULL, OTHER], ids=["adapter", "full", "given"])
def test_losses_and_weights_are_those_of_a_living_reference(here, packs, model):
    """Over two shuffled epochs, in training and validation, with an adapter, a copy, or a given model."""
    assert train("living", **model) == 0
    assert packs == []
    assert train("stored", **STORED, **model) == 0
    assert len(packs) > 2
    assert sum(packs) == 2 * (12 + 3)
    assert len(losses("living")) >= 10
    assert losses("stored") == pytest.approx(losses("living"), abs=1e-6)
    living, stored = weights("living"), weights("stored")
    assert living.keys() == stored.keys()
    assert max((living[name] - stored[name]).abs().max() for name in living) < 1e-5


def test_it_is_computed_once_for_a_model_and_its_data(here, packs):
    """Other runs read it; another model or template computes its own, and damaged numbers are replaced."""
    short = "train_cfg.max_epochs=1"
    assert train("first", short, **STORED) == 0
    count = len(packs)
    written = columns()
    assert len(written) == 2
    assert train("again", short, "lr=0.02", "model.beta=0.1", **STORED) == 0
    assert (len(packs), columns()) == (count, written)
    assert train("others", short, **STORED, **OTHER) == 0
    assert len(packs) == 2 * count
    assert train("model", short, "model_path=other", **STORED) == 0
    assert len(packs) == 3 * count
    good = written[0].read_bytes()
    written[0].write_bytes(good[:-1] + b"?")
    assert train("damaged", short, **STORED) == 0
    assert written[0].read_bytes() == good
    count = len(packs)
    template = Path("model/tokenizer_config.json")
    template.write_text(template.read_text().replace("</s>", "."))
    assert train("template", short, **STORED) == 0
    assert len(packs) > count


def test_a_killed_run_goes_on(here, packs, monkeypatch):
    """What was computed before is kept; the numbers are those of a run that was never killed."""
    monkeypatch.setattr(reference, "PACKS_PER_SAVE", 1)
    monkeypatch.setattr(reference, "SAVES", 1000)
    measure, left = reference.Backend.measure, 2

    def killed(self, *args, **how):
        nonlocal left
        left -= how["mode"] == "reference"
        if left < 0:
            raise KeyboardInterrupt
        return measure(self, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(reference.Backend, "measure", killed)
        assert train("killed", **STORED) == 130
    (partial,) = columns()
    assert 0 < np.isnan(np.load(partial)).sum() < 2 * 12
    done = np.isfinite(np.load(partial)).sum()
    packs.clear()
    assert train("killed", **STORED) == 0
    assert sum(packs) == 2 * (12 + 3) - done
    found = [np.load(path) for path in columns()]
    shutil.rmtree(os.environ["XTUNER_CACHE"])
    assert train("whole", **STORED) == 0
    for ours, theirs in zip(found, map(np.load, columns()), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_resumed_run_has_the_same_weights(here, packs):
    """Bit for bit, on the stored numbers: the model of a checkpoint never computes them."""
    assert train("w", **STORED) == 0
    count = len(packs)
    shutil.copytree("w", "r")
    go_back("r")
    assert train("r", words=["--resume"], **STORED) == 0
    assert len(packs) == count
    ours, theirs = weights("r"), weights("w")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    shutil.rmtree(os.environ["XTUNER_CACHE"])
    shutil.copytree("w", "c")
    go_back("c")
    assert train("c", words=["--resume"], **STORED) == 0
    assert len(packs) == 2 * count
    ours = weights("c")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
