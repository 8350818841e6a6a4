"""Rows for models with a head: from the usual names of fields to one form for each kind.

    {"text": "..."} or {"messages": [...]}, "label"          a text with a label, a list of them, or a number
    {"anchor", "positive", "negatives": [...]}               texts that belong together, and ones that do not
    {"prompt", "completions": [...], "labels": [true]}       the steps of an answer, each right or wrong

`anchor`, `positive`, `negatives` and `prompt` are texts or lists of messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtuner.dataset.map_fns.fields import Row, first_present, listed, missing_field, present, text
from xtuner.dataset.map_fns.openai import tools_of
from xtuner.dataset.map_fns.preferences import DIALOGUES
from xtuner.dataset.map_fns.sharegpt import messages_of
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

TEXTS = ("text", "sentence", "content", "review", "comment", "document", "body", "tweet", "question", "input")
LABELS = ("label", "labels", "label_text", "category", "class", "intent", "sentiment", "target")
NUMBERS = ("score", "label", "labels", "rating", "target", "value")
ANCHORS = ("anchor", "query", "question", "premise")
POSITIVES = (
    "positive", "positives", "pos", "positive_passages", "entailment", "document", "passage", "context",
    "answer",
)  # fmt: skip
NEGATIVES = (
    "negatives", "negative", "neg", "negative_passages", "hard_negatives", "hard_negative", "contradiction",
)  # fmt: skip
_NUMBERED = re.compile(r"(?:hard_)?neg(?:ative)?_\d+")
PROMPTS = ("prompt", "question", "problem", "query", "instruction")
STEPS = ("completions", "steps", "solution_steps")
STEP_LABELS = ("labels", "step_labels", "label")
RATINGS = ("ratings", "rating")
# Marks in the rows of Math-Shepherd: the end of a step, and its label at the same position.
_SHEPHERD, _RIGHT = "ки", {"+": True, "-": False}
_YES, _NO = ("true", "yes", "1", "1.0", "+", "good", "right", "correct"), (
    "false", "no", "0", "0.0", "-", "-1", "-1.0", "bad", "wrong", "incorrect",
)  # fmt: skip


def classification_map_fn(example: Row) -> dict[str, Any]:
    """A text or a conversation, and what is known of it, by the usual names of fields."""
    return {**_text_or_dialogue(example), "label": _first(example, LABELS)}


def regression_map_fn(example: Row) -> dict[str, Any]:
    """A text or a conversation, and its number, by the usual names of fields."""
    return {**_text_or_dialogue(example), "label": _first(example, NUMBERS)}


def embedding_map_fn(example: Row) -> dict[str, Any]:
    """An anchor, what belongs to it, and what does not, by the usual names of fields.

    A list as `positive` makes a pair with each of them. Passages may be objects with `title` and `text`.
    """
    if not any(example.get(name) is not None for name in POSITIVES) and "sentence1" in example:
        raise DataError(
            translate(
                "the row is a pair of sentences with a score: keep pairs that belong together, as 'anchor' "
                "and 'positive'"
            )
        )
    anchor = _passage(_first(example, ANCHORS), "anchor")
    positives = _passages(_first(example, POSITIVES), "positive")
    name = first_present(example, NEGATIVES)
    negatives = [] if name is None else _passages(example[name], "negatives")
    numbered = [name for name in example if _NUMBERED.fullmatch(name) and example[name] is not None]
    negatives += [_passage(example[name], name) for name in numbered]
    return {"anchor": anchor, "positive": positives, "negatives": negatives}


def stepwise_map_fn(example: Row) -> dict[str, Any]:
    """A prompt, the steps of an answer, and whether each is right, by the usual names of fields.

    Ratings of -1, 0 and 1, as those of PRM800K, are wrong, right (neutral) and right.
    """
    whole, marks = (example.get(name) for name in ("input", "label"))
    if isinstance(whole, str) and isinstance(marks, str) and _SHEPHERD in whole:
        return math_shepherd_map_fn(example)
    prompt = _first(example, PROMPTS)
    steps = list(listed(_first(example, STEPS), "completions"))
    inside = [step for step in steps if isinstance(step, Mapping)]
    labels: Any
    if inside:
        if len(inside) < len(steps):
            raise DataError(translate("the steps of the row are texts and objects: write all of them alike"))
        ratings = [_step_label(step) for step in inside]
        return {"prompt": prompt, "completions": [_step(step) for step in inside], "labels": ratings}
    name = first_present(example, RATINGS)
    if name is not None:
        labels = [_rating(value) for value in listed(example[name], name)]
    else:
        labels = [as_right(value) for value in listed(_first(example, STEP_LABELS), "labels")]
    return {"prompt": prompt, "completions": steps, "labels": labels}


def math_shepherd_map_fn(example: Row) -> dict[str, Any]:
    """Rows of Math-Shepherd: `input` with a mark after each step, `label` with + or - in its position."""
    *steps, rest = text(example, "input").split(_SHEPHERD)
    marks, after = [], text(example, "label")
    for step in steps:
        if not after.startswith(step) or after[len(step) : len(step) + 1] not in _RIGHT:
            raise DataError(
                translate("'label' is not the text of 'input' with + or - in the positions of its marks")
            )
        marks.append(_RIGHT[after[len(step)]])
        after = after[len(step) + 1 :]
    if rest.strip():
        raise DataError(translate("the last step of 'input' has no mark at its end"))
    head, found, first = steps[0].partition("Step 1:") if steps else ("", "", "")
    steps = [found + first, *steps[1:]] if found else steps
    return {
        "prompt": head.strip() if found else "",
        "completions": [step.strip() for step in steps],
        "labels": marks,
    }


HEAD_FORMATS: dict[str, dict[str, Callable[[Row], dict[str, Any]]]] = {
    "classification": {"auto": classification_map_fn},
    "regression": {"auto": regression_map_fn},
    "embedding": {"auto": embedding_map_fn},
    "stepwise": {"auto": stepwise_map_fn, "math_shepherd": math_shepherd_map_fn},
}
"""What `dataset_map_fn` may name, for each kind of data."""


# --- parts of a row --------------------------------------------------------------------------------------


def as_right(value: Any) -> bool:
    """Whether the label of a step says that it is right."""
    word = str(value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    what = "the label of a step is {value!r:.40}: write true for a right one, false for a wrong one"
    raise DataError(translate(what, value=value))


def _first(example: Row, names: Sequence[str]) -> Any:
    name = first_present(example, names)
    if name is None:
        raise missing_field(names[0], present(example))
    return example[name]


def _text_or_dialogue(example: Row) -> dict[str, Any]:
    """`text`, or `messages` and `tools`."""
    dialogue = next((name for name in DIALOGUES if isinstance(example.get(name), (list, tuple))), None)
    if dialogue is None:
        name = first_present(example, TEXTS)
        if name is None:
            raise missing_field("text", present(example))
        return {"text": text(example, name)}
    tools = tools_of(example)
    return {"messages": messages_of(example, dialogue), **({"tools": tools} if tools else {})}


def _passages(value: Any, name: str) -> list[Any]:
    """One or several texts or conversations as a list of them."""
    is_many = isinstance(value, (list, tuple)) and not _is_dialogue(value)
    return [_passage(one, name) for one in value] if is_many else [_passage(value, name)]


def _passage(value: Any, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        return messages_of({name: value}, name)
    if isinstance(value, Mapping):
        parts = [value.get("title"), value.get("text")]
        if not value.get("text"):
            raise missing_field("text", present(value))
        return "\n".join(str(part) for part in parts if part)
    return text({name: value}, name)


def _is_dialogue(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(one, Mapping) and ("role" in one or "from" in one) for one in value)


def _step(step: Row) -> str:
    return text({"step": _first(step, ("text", "step", "completion", "content"))}, "step")


def _step_label(step: Row) -> bool:
    if step.get("rating") is not None:
        return _rating(step["rating"])
    return as_right(_first(step, ("label", "correct", "is_correct")))


def _rating(value: Any) -> bool:
    if isinstance(value, bool) or value not in (-1, 0, 1):
        raise DataError(translate("the rating of a step is {value!r:.40}: write -1, 0 or 1", value=value))
    if value == 0:
        say_once("steps have ratings of 0 (neutral): they are taken as right")
    return value >= 0
