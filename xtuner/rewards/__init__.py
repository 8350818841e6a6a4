"""Rewards: numbers for answers, which reinforcement learning makes larger.

functions.py    a function of the user's by its name, `FILE.py:function`
compare.py      an answer and the reference of its row -> a number, by name: "exact", "numeric", ...
form.py         the form of an answer -> a number: Matches, Length
faults.py       what is said of rewards that cannot be used
scored.py       several rewards with weights, for a batch of answers
advantages.py   the rewards of the answers to one prompt -> how much better each is than the others
"""

from xtuner.rewards.form import Length, Matches

__all__ = ["Length", "Matches"]
