"""Variants side by side are the runs that each would be alone."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
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
            assert ours.get(key, 0) == pytest.approx(theirs.get(key, 0), abs=1e-6, rel=1e-5)


VARIANTS = {
    "ranks, seeds": ["r=4,8", "seed=1,2"],
    "data, lengths of run": ["data_path=d.json,e.json", "max_iters=6,9"],
    "rates": ["lr=1e-3,2e-4"],
    "schedules, updates of several batches": ["end=6,100", "counts=1,4"],
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


@pytest.mark.parametrize("bits", [4, 8])
def test_variants_over_a_quantised_base(here, run, batches, bits):
    """Its codes are in memory once, and what they mean with them."""
    pytest.importorskip("bitsandbytes")
    text = Path("c.py").read_text()
    quantised = f"quantization_config=dict(type=BitsAndBytesConfig, load_in_{bits}bit=True),"
    text = text.replace("torch_dtype=torch.float32,", f"torch_dtype=torch.float32, {quantised}")
    Path("c.py").write_text(text.replace("AutoTokenizer\n", "AutoTokenizer, BitsAndBytesConfig\n", 1))
    run("sweep", "c.py", "r=4,8", "--work-dir", "w", "--together", "2")
    assert ("r=4", "r=8") in batches
    for r in (4, 8):
        run("train", "c.py", "--work-dir", f"a{r}", "--cfg-options", f"r={r}")
        assert_equal(f"w/r={r}", f"a{r}")


def test_a_variant_skips_its_own_updates(here, run, batches):
    """A rate that breaks one adapter leaves the other what it is alone; the failure is in the table."""
    words = ["lr=1e-3,1e38", "--cfg-options", "max_nonfinite_updates=2", "optim_wrapper.clip_grad=None"]
    code = cli.main(["sweep", "c.py", *words, "--work-dir", "w"])
    assert code == 1
    good, bad = json.loads(Path("w/sweep.json").read_text())["variants"]
    assert (good["status"], good["is_best"], bad["status"]) == ("finished", True, "failed")
    assert "2 skipped updates in a row" in bad["error"]
    run("train", "c.py", "--work-dir", "alone", *words[1:], "lr=1e-3")
    assert_equal("w/lr=1e-3", "alone")
    assert ("lr=1e-3", "lr=1e38") in batches


def test_a_stopped_sweep_goes_on_in_the_same_bits(here, run, monkeypatch, batches):
    """By a signal, which all variants take after the same number of batches."""
    words = ["sweep", "c.py", "r=4,8", "counts=1,4"]
    run(*words, "--work-dir", "whole")
    watched = mixed.MixedFinetune.losses

    def stopping(self, shares):
        if len(batches) == 2 + 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return watched(self, shares)

    monkeypatch.setattr(mixed.MixedFinetune, "losses", stopping)
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--work-dir", "w"])
    assert end.value.code == 143
    monkeypatch.setattr(mixed.MixedFinetune, "losses", watched)
    run(*words, "--work-dir", "w", "--resume")
    for name in ("r=4,counts=1", "r=4,counts=4", "r=8,counts=1", "r=8,counts=4"):
        ours, theirs = state(f"w/{name}"), state(f"whole/{name}")
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs), name


def test_a_killed_sweep_goes_on_where_all_variants_have_a_checkpoint(here, run, caplog):
    """One was killed before its newest checkpoint: the other goes back, so that the same are mixed."""
    words = ["sweep", "c.py", "r=4,8", "--work-dir", "w"]
    run(*words)
    before = {r: state(f"w/r={r}") for r in (4, 8)}
    (here / "w/r=8/iter_6.pth").unlink()
    (here / "w/sweep.json").unlink()
    caplog.set_level(logging.INFO, "xtuner")
    log = run(*words, "--resume", with_log=True)
    assert "All variants go on from iter_4.pth" in log
    for r, theirs in before.items():
        assert all(torch.equal(v, theirs[n]) for n, v in state(f"w/r={r}").items())


def test_a_variant_resumes_by_itself(here, run):
    """Its folder is that of a run: `xtuner train` goes on with the config in it."""
    run("sweep", "c.py", "r=4,8", "--work-dir", "w")
    shutil.copytree("w/r=8", "one")
    run("train", "w/r=8/c.py", "--work-dir", "one", "--resume", "one/iter_4.pth")
    ours, theirs = state("one"), state("w/r=8")
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in theirs) < 1e-6


def test_finished_variants_are_left_out_when_resumed(here, run, batches):
    words = ["sweep", "c.py", "r=4,8", "--work-dir", "w"]
    first = run(*words)
    batches.clear()
    assert run(*words, "--resume") == first
    assert batches == []


@pytest.mark.parametrize("together", [1, 2])
def test_the_memory_is_bounded(here, run, batches, together):
    """At most N at a time; the next begins when one ends."""
    run("sweep", "c.py", "r=2,4,8", "--work-dir", "w", "--together", together)
    assert max(map(len, batches), default=1) == together
    assert [r["status"] for r in json.loads(Path("w/sweep.json").read_text())["variants"]] == ["finished"] * 3


APART = {
    "model.lora.use_dora=True,False": "its adapter is more than plain LoRA on linear layers",
    "model.lora.modules_to_save=[lm_head],None": "it trains weights besides LoRA's linear layers",
}


@pytest.mark.parametrize(("word", "reason"), APART.items())
def test_what_cannot_be_mixed_takes_turns_over_the_same_base(here, run, batches, word, reason):
    log = run("sweep", "c.py", word, "--work-dir", "w", "--together", "2", with_log=True)
    assert batches == []
    assert f"computes its batches by itself: {reason}" in log
    key, _, values = word.rpartition("=")
    for number, value in enumerate(values.rsplit(",", 1)):
        run("train", "c.py", "--work-dir", f"a{number}", "--cfg-options", f"{key}={value}")
    for number, result in enumerate(json.loads(Path("w/sweep.json").read_text())["variants"]):
        assert_equal(result["work_dir"], f"a{number}")


def test_each_base_has_its_own_mix(here, run, batches):
    """Variants of another base train after those of the first."""
    shutil.copytree("model", "other")
    run("sweep", "c.py", "model.llm.pretrained_model_name_or_path=model,other", "r=4,8", "--work-dir", "w")
    assert {tuple(name.split(",")[0] for name in names) for names in batches} == {
        ("pretrained_model_name_or_path=model",) * 2,
        ("pretrained_model_name_or_path=other",) * 2,
    }


def test_variants_differ_in_their_settings_alone(here, run):
    """One seed for all of them, also for those that begin after a kill; a swept seed is each one's own."""
    words = ["sweep", "c.py", "lr=1e-3,1e-4", "--cfg-options", "randomness=None", "env_cfg=None"]
    run(*words, "--work-dir", "w")
    (seed,) = {torch.load(f"w/lr={lr}/iter_6.pth")["meta"]["seed"] for lr in ("1e-3", "1e-4")}
    shutil.rmtree("w/lr=1e-4")
    text = Path("w/sweep.json").read_text()
    Path("w/sweep.json").write_text(text.replace('"finished"', '"waiting"'))
    before = state("w/lr=1e-3")
    run(*words, "--work-dir", "w", "--resume")
    assert torch.load("w/lr=1e-4/iter_6.pth")["meta"]["seed"] == seed
    assert all(torch.equal(v, before[n]) for n, v in state("w/lr=1e-3").items())
    run(*words, "--work-dir", "v", "--seed", "7")
    assert torch.load("v/lr=1e-4/iter_6.pth")["meta"]["seed"] == 7
    run("sweep", "c.py", "seed=1,2", "--work-dir", "u")
    assert [torch.load(f"u/seed={s}/iter_6.pth")["meta"]["seed"] for s in (1, 2)] == [1, 2]


def test_missing_memory_names_the_variants_and_the_cure(here, run, capsys, monkeypatch, batches):
    """The runs end with the checkpoints that they have, and go on with fewer at a time."""
    watched = mixed.MixedFinetune.losses

    def full(self, shares):
        if len(batches) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return watched(self, shares)

    monkeypatch.setattr(mixed.MixedFinetune, "losses", full)
    assert cli.main(["sweep", "c.py", "r=4,8", "--work-dir", "w"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory" in error
    assert error.endswith("Computed together: r=4, r=8; --resume --together N goes on with fewer")
    monkeypatch.setattr(mixed.MixedFinetune, "losses", watched)
    batches.clear()
    run("sweep", "c.py", "r=4,8", "--work-dir", "w", "--resume", "--together", "1")
    assert batches == []
    run("train", "c.py", "--work-dir", "alone", "--cfg-options", "r=4")
    ours, theirs = state("w/r=4"), state("alone")
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in theirs) < 1e-6


REFUSED = {
    ("lr=1e-4,2e-4", "--cfg-options", "model.lora=None"): "sweep trains adapters",
    ("lr=1e-4,1e-4",): "two variants have the name lr=1e-4",
    ("lr=1e-4", "lr=2e-4"): "lr is given twice",
    ("lr",): "'lr': write KEY=VALUE,VALUE,...",
    ("lr=1e-4,2e-4", "--cfg-options", "deepspeed=deepspeed_zero2"): "sweep does not train by DeepSpeed",
    ("lrr=1e-4,2e-4",): "Did you mean 'lr'",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items())
def test_what_is_no_sweep_is_one_line(here, capsys, words, message):
    assert cli.main(["sweep", "c.py", *words, "--work-dir", "w"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_results(here, run):
    """A table with the best marked, JSON, and a page with the curves of all over each other."""
    out = run(
        "sweep", "c.py", "lr=1e-2,1e-5", "--work-dir", "w", "--cfg-options", "val_dataloader.held_out=0.3"
    )
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "variant"
    assert lines[0].endswith("best val loss")
    assert lines[1].startswith("lr=1e-2")
    assert lines[1].endswith("<- best")
    assert not lines[2].endswith("<- best")
    assert lines[3] == "Curves: w/sweep.html"
    assert run("sweep", "c.py", "r=4,8", "--work-dir", "v").splitlines()[0].split("  ")[-1] == "final loss"
    page = Path("w/sweep.html").read_text()
    assert page.count("<polyline") == 6  # loss, val/loss, val/perplexity
    logs = ["".join(f.read_text() for f in Path(f"w/lr={lr}").glob("*/*.log")) for lr in ("1e-2", "1e-5")]
    assert all(log.count("Iter(train)") == 6 for log in logs)
