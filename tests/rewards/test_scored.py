"""Rewards of a config: where they come from, and what is said of one that gives no number."""

import math

import numpy as np
import pytest

from xtuner.errors import ConfigError, DataError
from xtuner.rewards import Length, Matches
from xtuner.rewards.scored import Answer, Rewards


def answer(text, reference="4", **row):
    return Answer("2+2?", text, reference, row, "d.jsonl line 3", [{"role": "user", "content": "2+2?"}])


def brief(question, answer, row):
    return len(question) + len(answer) + row["more"]


class Scorer:
    """Scores dialogues, as a trained reward model does."""

    def scores(self, dialogues):
        return [float(len(dialogue["messages"][-1]["content"])) for dialogue in dialogues]


def test_functions_names_and_objects_give_a_column_each(tmp_path):
    """In the order of the config; equal names are numbered."""
    file = tmp_path / "own.py"
    file.write_text("def twice(question, answer, row):\n    return 2 * (answer == '4')\n")
    given = ["numeric", "exact", f"{file}:twice", brief, Matches("^4"), Scorer(), Matches("5", whole=True)]
    rewards = Rewards(given, [1, 1, 1, 1, 1, 1, 0.5])
    assert rewards.names == ["numeric", "exact", "twice", "brief", "matches", "scorer", "matches_2"]
    found = rewards.score([answer("4", more=1), answer("so 4.0", more=2), answer("5", more=0)])
    assert found.tolist() == [[1, 1, 2, 6, 1, 1, 0], [1, 0, 0, 12, 0, 6, 0], [0, 0, 0, 5, 0, 1, 1]]
    assert (found @ rewards.weights).tolist() == [12, 19, 6.5]


def test_the_form_of_an_answer():
    """An expression is found over several lines; a length counts less the further it is away."""
    assert Matches("<a>.*</a>")("", "so <a>1\n2</a>.", {}) == 1
    assert Matches("<a>.*</a>", whole=True)("", "so <a>1</a>", {}) == 0
    assert [Length(4, 2)("", "x" * n, {}) for n in (0, 1, 2, 4, 6, 8, 9)] == [0, 0.5, 1, 1, 0.5, 0, 0]
    with pytest.raises(ConfigError, match=r"Matches: '\(' is no regular expression: "):
        Matches("(")
    with pytest.raises(ConfigError, match="Length: least is 5 and most 4"):
        Length(4, 5)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "much", [1]])
def test_a_reward_that_is_no_number_names_row_function_and_answer(value):
    """Whatever it gave instead."""

    def own(question, answer, row):
        return value

    with pytest.raises(DataError) as found:
        Rewards([own]).score([answer("five")])
    start = f"d.jsonl line 3: the reward own gave {value!r} for the answer 'five': it must be a number"
    assert str(found.value) == start


def test_a_reward_that_fails_names_row_function_and_answer():
    """So does the lack of a reference for a reward that compares with it."""
    with pytest.raises(DataError, match=r"d.jsonl line 3: the reward brief failed for the answer 'x': Key"):
        Rewards(brief).score([answer("x")])
    with pytest.raises(DataError, match="the row has no answer that the reward exact could"):
        Rewards("exact").score([answer("x", reference=None)])


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        ([], None, "rollouts.rewards is empty: name a function"),
        (["numerc"], None, "rollouts.rewards numerc: there is no such reward. Did you mean 'numeric'?"),
        (["no.py:f"], None, "rollouts.rewards no.py:f cannot be loaded: "),
        (["math:no"], None, "rollouts.rewards math:no: there is no function no"),
        ([lambda answer: 1], None, r"takes \(answer\), but is called with \(question, answer, row\)"),
        ([Matches], None, "rollouts.rewards has <class 'xtuner.rewards.form.Matches'>: a reward is a func"),
        (["exact"], [1, 2], "rollouts.weights has 2 numbers for 1 reward"),
    ],
)
def test_wrong_rewards_are_refused(given, weights, message):
    """Before anything is sampled."""
    with pytest.raises(ConfigError, match=message):
        Rewards(given, weights)


def test_the_scores_are_an_array_of_numbers():
    """Also those of no answers."""
    assert Rewards("exact").score([]).shape == (0, 1)
    assert Rewards("exact").score([answer("4")]).dtype == np.float64
