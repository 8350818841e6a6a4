"""Answers that are compared: from the rows of known data to one form, a prompt with its answers.

    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}                a pair
    {"prompt": [messages], "answers": [[messages], ...], "scores": [2, 0, 1]}           any number of answers
    {"prompt": [messages], "answers": [[messages]], "labels": [true]}                   good or bad ones

The larger a score, the better the answer. `tools` may stand in each row. Raw rows have texts or messages, the
prompt apart or at the head of each dialogue.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.dataset.map_fns.fields import (
    Row,
    first_present,
    items,
    missing_field,
    present,
    text,
    text_or_empty,
)
from xtuner.dataset.map_fns.openai import tools_of
from xtuner.dataset.map_fns.sharegpt import messages_of
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

Message = dict[str, Any]

SIDES = ("chosen", "rejected")
PROMPTS = ("prompt", "question", "instruction", "query", "problem", "input")
LISTS = ("answers", "completions", "responses", "outputs", "candidates", "generations", "replies")
ANSWERS = ("completion", "response", "answer", "output")
DIALOGUES = ("messages", "conversations", "conversation")
WORDS = ("answer", "response", "completion", "text", "content", "output", "generation", "value")
# Of each row the first field that it has. Those of UltraFeedback come with a mean of four aspects, which is
# more exact than the overall score.
SCORES = ("fine-grained_score", "overall_score", "score", "rating", "reward")
RANKS = ("rank", "ranking")
LABELS = ("label", "kto_tag", "is_desirable", "desirable", "thumbs_up", "thumb_up")
_GOOD = ("true", "yes", "1", "1.0", "+1", "good", "desirable", "chosen", "up", "positive")
_BAD = ("false", "no", "0", "0.0", "-1", "-1.0", "bad", "undesirable", "rejected", "down", "negative")
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


# --- map functions ---------------------------------------------------------------------------------------


def pairs_map_fn(example: Row) -> dict[str, Any]:
    """`chosen` and `rejected`: texts, messages, or whole dialogues whose common head is the prompt.

    A list of texts as `rejected` makes a pair with each of them.
    """
    for name in SIDES:
        if example.get(name) is None:
            raise missing_field(name, present(example))
    if _is_texts(example["rejected"]):
        answers = [example["chosen"], *example["rejected"]]
        prompt = _prompt(example)
        shaped = [_answer({"chosen": answer}, "chosen") for answer in answers]
        return {
            **_tools(example),
            "prompt": prompt,
            "answers": shaped,
            "scores": [1] + [0] * len(answers[1:]),
        }
    if _is_transcript(example):
        return hh_rlhf_map_fn(example)
    chosen, rejected = (_answer(example, name) for name in SIDES)
    has_prompt = any(example.get(name) is not None for name in (*PROMPTS, *DIALOGUES))
    begin = {answer[0]["role"] for answer in (chosen, rejected) if answer}
    asks = any(message["role"] == "user" for message in (*chosen, *rejected))
    if not asks or (has_prompt and begin == {"assistant"}):
        return {**_tools(example), "prompt": _prompt(example), "chosen": chosen, "rejected": rejected}
    return {**_tools(example), **_parted(_system_before(example, chosen), chosen, rejected)}


def hh_rlhf_map_fn(example: Row) -> dict[str, Any]:
    """Rows of Anthropic/hh-rlhf: two transcripts with "Human:" and "Assistant:" that begin alike."""
    return _parted([], *(_transcript(text(example, name)) for name in SIDES))


def intel_orca_dpo_map_fn(example: Row) -> dict[str, Any]:
    """Rows of Intel/orca_dpo_pairs: `system`, `question`, `chosen`, `rejected`, all text."""
    system = [{"role": "system", "content": example["system"]}] if example["system"] else []
    return {
        "prompt": [*system, {"role": "user", "content": example["question"]}],
        **{name: [{"role": "assistant", "content": example[name]}] for name in SIDES},
    }


def orpo_dpo_mix_40k_map_fn(example: Row) -> dict[str, Any]:
    """Rows whose `chosen` and `rejected` are whole dialogues: the last message is the answer."""
    chosen, rejected = (items(example, name) for name in SIDES)
    if [_said(message) for message in chosen[:-1]] != [_said(message) for message in rejected[:-1]]:
        say_once(
            "orpo_dpo_mix_40k_map_fn: dialogues of chosen and rejected differ before the last message: "
            "both last messages follow the dialogue of chosen"
        )
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def ranked_map_fn(example: Row) -> dict[str, Any]:
    """A list of answers with scores, ranks or labels, beside them or inside; with none, the best is first."""
    name = next((name for name in LISTS if _is_list(example.get(name))), None)
    if name is None:
        raise missing_field("answers", present(example))
    found = list(example[name])
    answers = [_answer({name: _words(answer)}, name) for answer in found]
    row = {**_tools(example), "prompt": _prompt(example), "answers": answers}
    for kind, names, read in (
        ("scores", SCORES, _score),
        ("scores", RANKS, _rank),
        ("labels", LABELS, _label),
    ):
        values = _values(example, found, names)
        if values is not None:
            return {**row, kind: [read(value) for value in values]}
    say_once("answers have neither scores nor ranks: they are taken as ranked, the best first", logging.INFO)
    return {**row, "scores": list(range(len(answers), 0, -1))}


def ultrafeedback_map_fn(example: Row) -> dict[str, Any]:
    """Rows of openbmb/UltraFeedback: an `instruction` and `completions` with their scores.

    An answer without a score is left out.
    """
    rated = [answer for answer in items(example, "completions") if _is_rated(answer)]
    if len(rated) < len(example["completions"]):
        say_once("ultrafeedback_map_fn: answers without a score are left out", logging.INFO)
    return ranked_map_fn({"instruction": text(example, "instruction"), "completions": rated})


def labelled_map_fn(example: Row) -> dict[str, Any]:
    """One answer, good or bad: `prompt`, `completion`, `label`, or a dialogue that ends with the answer."""
    label = first_present(example, LABELS)
    if label is None:
        raise missing_field("label", present(example))
    dialogue = next((name for name in DIALOGUES if _is_list(example.get(name))), None)
    name = first_present(example, ANSWERS)
    if dialogue is not None:
        whole = messages_of(example, dialogue)
        prompt, answer = [*_system(example), *whole[:-1]], whole[-1:]
    elif name is not None:
        prompt, answer = _prompt(example), _answer(example, name)
    else:
        raise missing_field("completion", present(example))
    return {**_tools(example), "prompt": prompt, "answers": [answer], "labels": [_label(example[label])]}


# --- parts of a row --------------------------------------------------------------------------------------


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(isinstance(inner, str) for inner in value)


def _tools(example: Row) -> dict[str, Any]:
    tools = tools_of(example)
    return {"tools": tools} if tools else {}


def _system(example: Row) -> list[Message]:
    name = next((name for name in ("system", "system_prompt") if example.get(name)), None)
    return [{"role": "system", "content": text(example, name)}] if name else []


def _system_before(example: Row, dialogue: list[Message]) -> list[Message]:
    """The system text of a row whose dialogue has none: its own field, or the head of a list as prompt."""
    if dialogue[:1] and dialogue[0]["role"] == "system":
        return []
    apart = messages_of(example, "prompt") if _is_list(example.get("prompt")) else []
    return _system(example) or [message for message in apart if message["role"] == "system"]


def _answer(example: Row, name: str) -> list[Message]:
    value = example[name]
    if isinstance(value, Mapping):
        return messages_of({name: [value]}, name)
    if _is_list(value):
        return messages_of(example, name)
    return [{"role": "assistant", "content": text(example, name)}]


def _prompt(example: Row) -> list[Message]:
    """The messages before the answer: a text or messages, after a system text and earlier turns."""
    dialogue = next((name for name in DIALOGUES if _is_list(example.get(name))), None)
    name = first_present(example, PROMPTS)
    if dialogue is not None:
        return [*_system(example), *messages_of(example, dialogue)]
    if name is None:
        raise missing_field("prompt", present(example))
    if _is_list(example[name]):
        return [*_system(example), *messages_of(example, name)]
    asked = text(example, name)
    if name == "instruction" and example.get("input"):
        asked = f"{asked}\n{text_or_empty(example, 'input')}"
    return [*_system(example), *_history(example), {"role": "user", "content": asked}]


def _history(example: Row) -> list[Message]:
    turns = example.get("history") or []
    if not (_is_list(turns) and all(_is_list(turn) and len(turn) == 2 for turn in turns)):
        what = "the field 'history' must be a list of [question, answer] pairs: {history!r:.80}"
        raise DataError(translate(what, history=turns))
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text({role: words}, role)}
        for turn in turns
        for role, words in zip(roles, turn, strict=True)
    ]


def _parted(before: list[Message], chosen: list[Message], rejected: list[Message]) -> dict[str, Any]:
    """The common head of two dialogues as prompt, and what follows it in each."""
    most = max(0, min(len(chosen), len(rejected)) - 1)
    count = next((i for i in range(most) if _said(chosen[i]) != _said(rejected[i])), most)
    for name, dialogue in zip(SIDES, (chosen, rejected), strict=True):
        if not dialogue or dialogue[count]["role"] != "assistant":
            raise DataError(
                translate(
                    "{name} has no answer to the messages that chosen and rejected have in common: both must "
                    "begin with the same prompt and go on with an answer",
                    name=name,
                )
            )
    return {"prompt": [*before, *chosen[:count]], "chosen": chosen[count:], "rejected": rejected[count:]}


def _said(message: Row) -> dict[str, Any]:
    return {
        key: value for key, value in message.items() if key not in ("loss", "weight") and value is not None
    }


def _is_transcript(example: Row) -> bool:
    has_prompt = any(example.get(name) is not None for name in PROMPTS)
    sides = [example[name] for name in SIDES]
    return not has_prompt and all(isinstance(s, str) and s.lstrip().startswith("Human:") for s in sides)


def _transcript(words: str) -> list[Message]:
    _, *parts = _SPEAKER.split("\n\n" + words.strip())
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _words(answer: Any) -> Any:
    """What an answer of a list says: a text, a message, messages, or an object with the text in a field."""
    if not isinstance(answer, Mapping) or "role" in answer or "from" in answer:
        return answer
    name = first_present(answer, WORDS)
    if name is None:
        raise missing_field("response", present(answer))
    return answer[name]


def _values(example: Row, answers: Sequence[Any], names: Sequence[str]) -> list[Any] | None:
    """The values of the answers: each has its own, or the row has a list of them."""
    for name in names:
        inside = [isinstance(answer, Mapping) and answer.get(name) is not None for answer in answers]
        if any(inside):
            if not all(inside):
                what = "answer {number} has no {name!r}, which other answers of the row have"
                raise DataError(translate(what, number=inside.index(False), name=name))
            return [answer[name] for answer in answers]
        for beside in (f"{name}s", name):
            values: Any = example.get(beside)
            if _is_list(values):
                if len(values) != len(answers):
                    what = "the row has {answers} answers and {count} values in {name!r}"
                    raise DataError(translate(what, answers=len(answers), count=len(values), name=beside))
                return list(values)
    return None


def _score(value: Any) -> float:
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(
            translate("the score of an answer is {value!r:.40}; it must be a number", value=value)
        )
    return score


def _rank(value: Any) -> float:
    return -_score(value)


def _is_rated(answer: Row) -> bool:
    return any(_is_number(answer.get(name)) for name in SCORES)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _label(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in _GOOD or word in _BAD:
        return word in _GOOD
    raise DataError(
        translate("the label of an answer is {value!r:.40}: write true for a good one, false", value=value)
    )
