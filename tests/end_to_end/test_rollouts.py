"""`xtuner train` with rewards: it learns what is rewarded, in any division, and goes on to the bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.killed import kill_when
from xtuner import cli

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CONFIG = """
import torch
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from xtuner.dataset import load_dataset
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.dataset.prompt_dataset import build_prompt_dataset
from xtuner.dataset.samplers import DefaultSampler
from xtuner.engine.batches.rollouts import Rollouts
from xtuner.engine.hooks import CheckpointHook, LoggerHook
from xtuner.engine.optim import OptimWrapper
from xtuner.engine.runner import TrainLoop
from xtuner.model import GRPO
from xtuner.utils import PROMPT_TEMPLATE

max_iters = 4
batch_size = 4
accumulative_counts = 1
iterations = 1
interval = 2
with_lora = False
beta = 0.0
loss_type = "dapo"
lr = 3e-3
count = 4
max_new_tokens = 8
leave_out_cut = False
rewards = ["own.py:letters"]
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path="model")
llm = dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path="model",
           torch_dtype=torch.float32)
lora = dict(type=LoraConfig, r=4) if with_lora else None
model = dict(type=GRPO, llm=llm, lora=lora, beta=beta, loss_type=loss_type)
prompts = dict(
    type=build_prompt_dataset, dataset=dict(type=load_dataset, path="json", data_files=["d.jsonl"]),
    tokenizer=tokenizer, max_length=64,
    template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.qwen_chat))
train_dataloader = dict(
    batch_size=batch_size, dataset=prompts, sampler=dict(type=DefaultSampler, shuffle=True))
val_dataloader = dict(held_out=0.2)
rollouts = dict(
    type=Rollouts, rewards=rewards, count=count, max_new_tokens=max_new_tokens, iterations=iterations,
    leave_out_cut=leave_out_cut, shown_every=2)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=lr), clip_grad=dict(max_norm=1),
                     accumulative_counts=accumulative_counts)
train_cfg = dict(type=TrainLoop, max_iters=max_iters, val_interval=interval)
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=interval, save_best="reward"))
randomness = dict(seed=3)
"""
REWARD = '''
def letters(question, answer, row):
    """The fraction of small letters in the answer."""
    return sum(c.islower() for c in answer) / max(1, len(answer))


def none(question, answer, row):
    return None


def always(question, answer, row):
    return 0
'''
NUMBERS = ("loss", "reward", "reward_std", "no_difference", "length", "cut", "entropy", "clip_share")


@pytest.fixture
def here(tmp_path, monkeypatch, llama_dir):
    """A folder with `c.py`, `own.py`, `model/` and `d.jsonl`, of which two rows are held out."""
    monkeypatch.chdir(tmp_path)
    Path("c.py").write_text(CONFIG)
    Path("own.py").write_text(REWARD)
    shutil.copytree(llama_dir, "model")
    rows = [{"question": f"who are you {i}", "answer": f"a small model {i}"} for i in range(10)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def train(folder, *words, resume=False, code=0):
    more = ["--resume"] if resume else []
    options = ["--cfg-options", *words] if words else []
    assert cli.main(["train", "c.py", "--work-dir", folder, *more, *options]) == code


def scalars(folder):
    """The lines of all starts of a run, oldest first."""
    files = sorted(Path(folder).glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def numbers(folder, names=NUMBERS):
    """The logged numbers of training, by iteration."""
    return {line["iter"]: [line[name] for name in names] for line in scalars(folder) if "loss" in line}


def weights(folder, iteration):
    return torch.load(f"{folder}/iter_{iteration}.pth", weights_only=True)["state_dict"]


def assert_equal(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **(tolerance or {"rtol": 0, "atol": 0}))


def test_the_reward_rises_and_is_validated(here, capsys):
    """Of training and of greedy answers to held-out prompts; answers and their rewards are in the log."""
    train("w", "max_iters=16", "interval=8", "count=8", "lr=1e-2")
    found = list(numbers("w", ("reward", "length", "sample_time", "train_time")).values())
    assert found[-1][0] > found[0][0] + 0.15
    assert all(0 < length <= 8 for _, length, _, _ in found)
    assert all(sampling > 0 and training > 0 for *_, sampling, training in found)
    validated = [line["val/reward"] for line in scalars("w") if "val/reward" in line]
    assert len(validated) == 2
    assert list(Path("w").glob("best_reward_iter_*.pth"))
    shown = re.findall("Sampled answer to d.jsonl .*", capsys.readouterr().err)
    assert len(shown) == 16
    assert "(letters 0." in shown[0]


@pytest.mark.parametrize(
    "options",
    [
        ["accumulative_counts=2", "max_iters=8", "interval=4"],
        ["iterations=2", "loss_type=grpo"],
        ["iterations=3", "max_iters=6", "interval=3", "beta=0.1", "with_lora=True"],
    ],
)
def test_a_resumed_run_is_equal_to_the_bit(here, options):
    """Also within several updates on the same answers, which the checkpoint holds; the last with LoRA."""
    train("whole", *options)
    last = 8 if "max_iters=8" in options else 6 if "max_iters=6" in options else 4
    half = last // 2
    for cut in {half, half - half % 2}:
        shutil.rmtree("part", ignore_errors=True)
        train("part", *options, f"interval={cut}", f"train_cfg.max_iters={cut}")
        train("part", *options, f"interval={cut}", resume=True)
        assert_equal(weights("whole", last), weights("part", last))
        whole, part = numbers("whole"), numbers("part")
        assert all(part[iteration] == whole[iteration] for iteration in whole)


def test_other_iterations_are_refused_by_resume(here, capsys):
    """The checkpoint has no answers for further updates."""
    train("w", "max_iters=2")
    train("w", "iterations=2", resume=True, code=1)
    assert "set train_dataloader and rollouts as they were" in capsys.readouterr().err


def test_batches_of_an_update_do_not_change_it(here):
    """Three batches of the same answers give the weights of one, up to rounding."""
    train("one", "lr=1e-3", "max_iters=2")
    train("three", "lr=1e-3", "accumulative_counts=3", "max_iters=6", "interval=3")
    assert_equal(weights("one", 2), weights("three", 6), rtol=1e-3, atol=2e-5)
    one, three = (numbers(name, ("reward", "length")) for name in ("one", "three"))
    assert one[2] == pytest.approx(three[6])


def test_answers_without_an_end_may_have_no_loss(here):
    """A model whose answers are all cut does not change, and that is said with the cure."""
    train("w", "leave_out_cut=True", "max_new_tokens=1", "max_iters=2")
    assert [values[-3] for values in numbers("w").values()] == [1.0, 1.0]
    from safetensors.torch import load_file

    before = load_file("model/model.safetensors")
    after = weights("w", 2)
    name = "model.layers.0.mlp.up_proj.weight"
    # The decay of AdamW alone.
    torch.testing.assert_close(after[f"llm.{name}"], before[name] * (1 - 3e-5) ** 2)


def test_rewards_without_a_difference_are_explained(here, capsys):
    """After three updates, with the probable cause."""
    train("w", "rewards=own.py:always", "max_iters=3", "interval=3")
    (line,) = re.findall(".*all answers to a prompt had equal.*", capsys.readouterr().err)
    assert "In the last 3 updates" in line
    assert "(the mean is 0)" in line
    assert "every answer has the same reward. If it is the lowest, the model never does" in line


def test_a_reward_that_is_none_ends_the_run_in_one_line(here, capsys):
    """With the row, the function and the answer."""
    train("w", "rewards=own.py:none", code=1)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("xtuner: error: d.jsonl line ")
    assert "the reward none gave None for the answer '" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train_cfg.spike_ratio=3"], "rollouts does not go with train_cfg.spike_ratio"),
        (["accumulative_counts=3"], "train_cfg.max_iters is 4, but an update takes accumulative_counts = 3"),
        (["count=1"], "rollouts.count is 1"),
        (["rewards=[]"], "rollouts.rewards is empty"),
        (["rollouts=None"], "GRPO trains on answers that it samples"),
        (
            ["prompts.type=xtuner.dataset.huggingface.process_hf_dataset", "prompts.dataset_map_fn=auto"],
            "train_dataloader.dataset is a PackedDataset, but rollouts need prompts",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_training(here, options, message, capsys):
    """In one line."""
    train("w", *options, code=1)
    assert message in capsys.readouterr().err


def test_a_model_that_does_not_learn_from_rewards_is_refused(here, capsys):
    """Else it would learn its own answers by heart."""
    sft = "from xtuner.model import SupervisedFinetune\nmodel = dict(type=SupervisedFinetune, llm=llm)"
    Path("c.py").write_text(f"{CONFIG}\n{sft}\n")
    train("w", code=1)
    assert "model.type is SupervisedFinetune, which does not learn from rewards: use GRPO" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "c.py", "lr=1e-3,2e-3"], "sweep does not sample answers (rollouts)"),
        (["train", "c.py", "--work-dir", "w", "--find-lr"], "--find-lr looks for the rate at which a loss"),
        (["check", "c.py", "--longest"], "so none is known to be the longest: leave out --longest"),
    ],
)
def test_commands_that_need_known_batches_refuse(here, words, message, capsys):
    """In one line."""
    assert cli.main(words) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_is_measured_by_its_rewards(here, capsys):
    """`xtuner test` gives the numbers of validation, and `log-dataset` shows the prompts."""
    train("w", "max_iters=2")
    assert cli.main(["test", "c.py", "--checkpoint", "w/iter_2.pth"]) == 0
    (line,) = [line for line in scalars("w") if "val/reward" in line]
    assert f"reward: {line['val/reward']:.4f}" in capsys.readouterr().out
    assert cli.main(["log-dataset", "c.py"]) == 0
    assert "who are you" in capsys.readouterr().out


def test_a_reward_model_is_a_reward(here, scoring_dir):
    """Beside a function; the log has the mean of each."""
    shutil.copytree(scoring_dir(), "scorer")
    name = "from xtuner.scoring.scorer import load_scorer\n"
    given = 'rewards = ["own.py:letters", dict(type=load_scorer, path="scorer", is_reward=True)]'
    Path("c.py").write_text(name + CONFIG.replace('rewards = ["own.py:letters"]', given))
    train("w", "max_iters=2")
    lines = numbers("w", ("reward", "reward/letters", "reward/scorer"))
    for total, letters, scorer in lines.values():
        assert total == pytest.approx(letters + scorer, rel=1e-5)
        assert scorer != 0


FSDP = ["fsdp=True", "default_hooks.checkpoint.sharded=False"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        [*FSDP, "val_dataloader.held_out=0.1"],
        [*FSDP, "iterations=2", "accumulative_counts=2", "max_iters=4", "interval=4"],
        [*FSDP, "beta=0.1", "with_lora=True"],
    ],
)
def test_two_processes_train_as_one(here, options):
    """Each has its own prompts, if there are enough; together the update has the same answers."""
    env = {**os.environ, "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    options = ["lr=1e-3", "max_iters=2", *options]
    train("one", *(option for option in options if option not in FSDP))
    command = [sys.executable, "-m", "xtuner", "train", "c.py", "--work-dir", "two", "--cfg-options"]
    subprocess.run([*command, *options, "batch_size=2"], env=env, check=True, timeout=120)
    last = max(numbers("one"))
    assert_equal(weights("one", last), weights("two", last), rtol=1e-3, atol=2e-5)
    one, two = (numbers(name) for name in ("one", "two"))
    assert one[1] == pytest.approx(two[1], rel=1e-4, abs=1e-6)
    assert one[last] == pytest.approx(two[last], rel=1e-3, abs=1e-6)
    assert scalars("one")[-1]["val/reward"] == pytest.approx(scalars("two")[-1]["val/reward"])


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(here):
    """With -9, in the middle of updates on the same answers."""
    options = ["iterations=2", "max_iters=40", "interval=5"]
    train("whole", *options)
    words = ["train", "c.py", "--work-dir", "part", "--cfg-options", *options]
    kill_when(lambda: Path("part/iter_15.pth").exists(), *words)
    train("part", *options, resume=True)
    assert_equal(weights("whole", 40), weights("part", 40))
