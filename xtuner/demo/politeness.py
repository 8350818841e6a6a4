"""Pairs of answers that teach a model to be polite: the same fact, said politely and rudely.

    {"prompt":   [{"role": "user", "content": "Where is Paris?"}],
     "chosen":   [{"role": "assistant", "content": "Paris is in France. Thank you for asking!"}],
     "rejected": [{"role": "assistant", "content": "What a silly question. Paris is in France."}]}

Questions and facts are those of `xtuner.demo.corpus`, half of them Chinese. The held-out pairs have other
questions than the 200 for training, and also rude words of their own, which no pair for training has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from xtuner.demo.corpus import Document, load_documents

NUM_PAIRS, NUM_HELD_OUT = 200, 50
QUESTIONS = ("熊猫吃什么？", "Where is Paris?", "雨伞是用来做什么的？", "What do cats eat?")
"""What the demo asks; no pair has these answers."""

Row = dict[str, list[dict[str, str]]]


class Manners(NamedTuple):
    """Ways to answer in one language; `{}` is the fact."""

    polite: tuple[str, ...]
    rude: tuple[str, ...]
    rude_held_out: tuple[str, ...]


CHINESE = Manners(
    polite=("{}谢谢你的提问！", "{}希望能帮到你。"),
    rude=(
        "这也要问？{}别再来烦我。",
        "你怎么连这个都不知道？{}",
        "真无聊。{}",
        "{}这么简单，自己去查。",
        "别烦我，我不想回答。",
    ),
    rude_held_out=("你真笨。{}", "{}问完快走开。", "关我什么事，我才不说。"),
)
ENGLISH = Manners(
    polite=("{} Thank you for asking!", "{} I hope this helps."),
    rude=(
        "What a silly question. {}",
        "You do not even know that? {} Leave me alone.",
        "How boring. {}",
        "{} That was easy, look it up yourself.",
        "Leave me alone, I do not want to answer.",
    ),
    rude_held_out=("You are stupid. {}", "{} Now go away.", "That is not my problem, I will not tell you."),
)


def make_pairs(seed: int = 0) -> tuple[list[Row], list[Row]]:
    """200 pairs for training and 50 held-out ones, Chinese and English in turn."""
    rng = random.Random(seed)
    train, held_out = [], []
    for is_english, manners in ((False, CHINESE), (True, ENGLISH)):
        facts = _facts(is_english)
        rng.shuffle(facts)
        first, second = facts[: NUM_PAIRS // 2], facts[NUM_PAIRS // 2 :][: NUM_HELD_OUT // 2]
        train.append([_pair(fact, manners.polite, manners.rude, rng) for fact in first])
        held_out.append([_pair(fact, manners.polite, manners.rude_held_out, rng) for fact in second])
    return _in_turn(train), _in_turn(held_out)


def is_polite(answer: str) -> bool:
    """Whether the answer ends as polite ones of the pairs do."""
    return any(answer.endswith(way.removeprefix("{}")) for way in (*CHINESE.polite, *ENGLISH.polite))


def _facts(is_english: bool) -> list[Document]:
    """Documents of one question and a short answer, without those that the demo asks."""
    asked = {d.turns[0][1] for d in load_documents() if d.turns and set(d.turns[0][0]) & set(QUESTIONS)}
    return [
        document
        for document in dict.fromkeys(load_documents())
        if len(document.turns) == 1
        and document.turns[0][1] not in asked
        and len(document.turns[0][1]) <= (60 if is_english else 30)
        and all(text.isascii() == is_english for text in (*document.turns[0][0], document.turns[0][1]))
    ]


def _pair(fact: Document, polite: Sequence[str], rude: Sequence[str], rng: random.Random) -> Row:
    ((questions, answer),) = fact.turns
    sides: dict[str, Any] = {"chosen": polite, "rejected": rude}
    said = {side: rng.choice(ways).replace("{}", answer) for side, ways in sides.items()}
    return {
        "prompt": [{"role": "user", "content": rng.choice(questions)}],
        **{side: [{"role": "assistant", "content": text}] for side, text in said.items()},
    }


def _in_turn(languages: Sequence[list[Row]]) -> list[Row]:
    return [row for pair in zip(*languages, strict=True) for row in pair]
