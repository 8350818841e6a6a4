"""The shipped texts and questions have the form that measuring them needs."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from xtuner.errors import ConfigError
from xtuner.evaluation.forgetting.items import GENERAL, LANGUAGES, read_tasks


def rows(kind, language):
    text = (GENERAL / kind / f"{language}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_forty_texts_and_forty_questions_without_duplicates(language):
    texts = [row["text"] for row in rows("texts", language)]
    assert len(set(texts)) == 40
    assert all(text == text.strip() for text in texts)
    assert len({row["question"] for row in rows("questions", language)}) == 40


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_letter_is_right_equally_often_and_choices_differ(language):
    """A model that always says the same letter has a quarter right."""
    _, task = read_tasks([language], [])
    assert Counter(q.right for q in task.questions) == {0: 10, 1: 10, 2: 10, 3: 10}
    for row in rows("questions", language):
        choices = row.get("choices") or [row[letter] for letter in "ABCD"]
        assert len({choice.casefold() for choice in choices}) == 4
        assert all(choice == choice.strip() != "" for choice in choices)


def test_questions_are_asked_in_their_language():
    _, english, _, chinese = read_tasks(LANGUAGES, [])
    assert english.questions[0].prompt.endswith("\nAnswer:")
    assert chinese.questions[0].prompt.endswith("\n答案：")
    assert english.by_letter
    assert chinese.by_letter


@pytest.mark.parametrize(
    ("languages", "row", "says"),
    [
        (["englisch"], None, "no general texts in 'englisch'. Did you mean 'english'?"),
        ([], None, "has nothing to measure: give files or languages"),
        ([], {"instruction": "who", "output": "me"}, "neither texts nor questions with choices"),
        (["english"], {"text": "a"}, "second that is named english: rename a file"),
    ],
)
def test_what_cannot_be_measured_is_named(tmp_path, languages, row, says):
    files = []
    if row is not None:
        files = [str(tmp_path / "english.jsonl")]
        (tmp_path / "english.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=says.replace("?", r"\?").replace("'", ".")):
        read_tasks(languages, files)
