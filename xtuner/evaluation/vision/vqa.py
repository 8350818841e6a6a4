"""VQA accuracy: an answer counts by how many people gave the same one.

answer      "The Two Dogs."  --normalise-->  "2 dogs"
10 people   "two dogs" x 2, "dogs" x 8       min(1, equal answers among 9 of them / 3), mean over the 10
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS.split())} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_PERIOD = re.compile(r"\.(?!\d)")

# Of these the official list has each form that lacks one apostrophe.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
    oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
    something'd something'll that's there'd there're there's they'd they'll they're they've 'twas wasn't
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
    who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've couldn't've
    hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""


def _without_each_apostrophe(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_FULL = {short: word for word in _CONTRACTIONS.split() for short in _without_each_apostrophe(word)}
_FULL["somebody'd"] = "somebodyd"  # as in the official list


def normalise(answer: str) -> str:
    """`answer` in lower case without punctuation and articles, numbers up to ten as digits.

    The rules are those of the VQA and TextVQA challenges, so that scores compare with published ones.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.replace("\n", " ").replace("\t", " ").strip()
    before = text
    for mark in _PUNCTUATION:
        # A mark at a space goes; one within a word becomes a space.
        is_at_space = f"{mark} " in before or f" {mark}" in before
        text = text.replace(mark, "" if is_at_space else " ")
    text = _PERIOD.sub("", text)
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join(_FULL.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """The mean over the people of min(1, equal answers of the others / 3); 0 without human answers.

    With one human answer, as some files have, the score is whether both are equal.
    """
    own, people = normalise(answer), [normalise(text) for text in human_answers]
    same = people.count(own)
    if len(people) <= 1:
        return float(same)
    scores = [min(1.0, (same - (text == own)) / 3) for text in people]
    return sum(scores) / len(scores)
