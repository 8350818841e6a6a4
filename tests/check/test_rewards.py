"""`xtuner check` finds wrong rewards without running the file that they are in."""

import pytest

from xtuner import cli

PART = """
from xtuner.dataset.prompt_dataset import build_prompt_dataset
from xtuner.engine.batches.rollouts import Rollouts
from xtuner.model import GRPO

model.update(type=GRPO)
train_dataloader["dataset"] = dict(
    type=build_prompt_dataset, dataset=dict(type=load_dataset, path=data_path), tokenizer=tokenizer,
    max_length=32, template_map_fn=dict(type=template_map_fn_factory, template=prompt_template))
rewards = ["own.py:good"]
rollouts = dict(type=Rollouts, rewards=rewards, count=4, max_new_tokens=8)
"""
OWN = """
raise SystemExit("check must not run this")


def good(question, answer, row=None):
    return 1


def short(answer):
    return 1


def more(*words, **named):
    return 1


other = good
"""


@pytest.fixture
def check(here, capsys):
    """Function of options, and of a change of the config: what check says of it on stderr."""
    (here / "own.py").write_text(OWN)
    text = (here / "c.py").read_text()

    def run(*options, old="", new=""):
        (here / "c.py").write_text(text + PART.replace(old, new) if old else text + PART)
        code = cli.main(["check", "c.py", *(["--cfg-options", *options] if options else [])])
        said = capsys.readouterr().err
        assert code == ("xtuner: error" in said)
        return said

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], ""),
        (["rewards=own.py:other"], ""),
        (["rewards=own.py:more"], ""),
        (["rewards=exact"], ""),
        (["rewards=[]"], "rollouts.rewards is empty: name a function"),
        (["rewards=own.py:god"], "rollouts.rewards own.py:god: there is no function god"),
        (["rewards=no.py:good"], "rollouts.rewards no.py:good cannot be loaded: "),
        (["rewards=exakt"], "there is no such reward. Did you mean 'exact'?"),
        (["rewards=own.py:short"], "takes (answer), but is called with (question, answer, row)"),
        (["rollouts.count=1"], "rollouts.count is 1; it must be a whole number of at least 2"),
        (["rollouts.max_new_tokens=0"], "rollouts.max_new_tokens is 0; it must be a whole number of at"),
        (["rollouts.weights=[1,2]"], "rollouts.weights has 2 numbers for 1 reward"),
        (["rollouts.cout=3"], "Did you mean 'count'?"),
        (["deepspeed=zero3"], "rollouts does not go with deepspeed, because each process samples with"),
        (["sequence_parallel_size=2"], "rollouts does not go with sequence_parallel_size"),
        (["train_cfg.spike_ratio=2"], "rollouts does not go with train_cfg.spike_ratio"),
    ],
)
def test_the_rewards_are_checked(check, options, message):
    """In one line each; a config without a fault says nothing."""
    said = check(*options)
    assert message in said
    assert bool(said) == bool(message)


def test_a_function_of_the_config_is_checked(check):
    """By its own arguments."""
    said = check(old='rewards = ["own.py:good"]', new="def own(text):\n    return 1\nrewards = [own]")
    assert "rollouts.rewards own: the function takes (text), but is called with (question, " in said


def test_the_parts_belong_together(check):
    """GRPO and rollouts."""
    said = check(old="rollouts = dict(", new="rollout = dict(")
    assert "GRPO trains on answers that it samples: give the config rollouts" in said


def test_long_answers_are_a_warning(check):
    """If the model has fewer positions than a prompt with its answer."""
    said = check("rollouts.max_new_tokens=100000")
    assert "max_length and rollouts.max_new_tokens are 100032 together, and the model has" in said
