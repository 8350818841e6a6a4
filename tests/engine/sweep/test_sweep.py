"""Variants side by side are the runs that each would be alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from xtuner import cli
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.model import mixed

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def batches(monkeypatch) -> list[tuple[str, ...]]:
    """The variants of each mixed batch."""
    seen = []
    losses = mixed.MixedFinetune.losses

    def watched(self, shares):
        seen.append(tuple(share.owner for share in shares))
        return losses(self, shares)

    monkeypatch.setattr(mixed.MixedFinetune, "losses", watched)
    return seen


def state(work_dir, name="iter_6.pth"):
    return load_checkpoint(Path(work_dir) / name, check=True)["state_dict"]


def scalars(work_dir):
    (file,) = Path(work_dir).glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_equal(work_dir, alone, name="iter_6.pth"):
    ours, theirs = state(work_dir, name), state(alone, name)
    assert list(ours) == list(theirs)
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < 1e-6
    pairs = zip(scalars(work_dir), scalars(alone), strict=True)
    for ours, theirs in pairs:
        for key in ("loss", "lr", "grad_norm"):
            assert ours.get(key) == pytest.approx(theirs.get(key), abs=1e-6, rel=1e-5)


VARIANTS = {
    "ranks, rates, seeds": ["r=4,8", "lr=1e-3,2e-4", "seed=1,2"],
    "data, lengths of run": ["data_path=d.json,e.json", "max_iters=6,9"],
    "schedules, updates of several batches": ["end=6,100", "counts=1,2,4"],
    "targets": ["model.lora.target_modules=[q_proj,v_proj],[gate_proj,down_proj],None"],
    "recomputed": ["r=4,8", "model.use_activation_checkpointing=True"],
    "packs of several": ["pack=True", "train_dataloader.batch_size=1,2"],
}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("words", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_is_the_run_that_it_would_be_alone(here, run, batches, words, dropout):
    """Weights, losses, rates and norms, with the random numbers of each its own."""
    common = ["--cfg-options", f"dropout={dropout}", "model.use_activation_checkpointing=False"]
    if "model.use_activation_checkpointing=True" in words:
        common = common[:2]
    run("sweep", "c.py", *words, "--work-dir", "w", "--together", "12", *common)
    results = json.loads(Path("w/sweep.json").read_text())["variants"]
    assert max(map(len, batches)) == len(results) > 1
    for number, result in enumerate(results):
        options = result["options"]
        run("train", "c.py", "--work-dir", f"a{number}", *common, *options)
        last = next((o.partition("=")[2] for o in options if o.startswith("max_iters")), 6)
        assert_equal(result["work_dir"], f"a{number}", f"iter_{last}.pth")
